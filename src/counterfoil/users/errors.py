"""What can go wrong with people and their access."""

from __future__ import annotations

from counterfoil.kernel.errors import Conflict, Forbidden, Invalid, LimitExceeded, NotFound, Unauthenticated


class CredentialsMissing(Unauthenticated):
    """Send an access token (POST /api/v1/auth/token issues one) or an API key as `Authorization: Bearer …`."""

    code = "CREDENTIALS_MISSING"


class TokenInvalid(Unauthenticated):
    """The access token is not valid or has expired; get a new one from POST /api/v1/auth/token."""

    code = "TOKEN_INVALID"


class LoginFailed(Unauthenticated):
    """E-mail address and password do not match an active account."""

    code = "LOGIN_FAILED"


class RoleMissing(Forbidden):
    """Your role {role} may not do this."""

    code = "ROLE_MISSING"


class UserNotFound(NotFound):
    """There is no such user."""

    code = "USER_NOT_FOUND"


class ErasureRequested(Conflict):
    """The erasure of this account has been requested; nothing about it can be changed any more."""

    code = "ERASURE_REQUESTED"


class LastAdministrator(Conflict):
    """This is the last active administrator; make another account one first."""

    code = "LAST_ADMINISTRATOR"


class EmailTaken(Conflict):
    """An account with this e-mail address exists already."""

    code = "EMAIL_TAKEN"


class UserChanged(Conflict):
    """The account has changed since you read it; read it again and repeat your change with the new ETag."""

    code = "USER_CHANGED"


class TooManyAttempts(LimitExceeded):
    """Too many attempts to sign in; try again in {retry_after_seconds} seconds."""

    code = "TOO_MANY_ATTEMPTS"


class ScopeMissing(Forbidden):
    """This API key does not have the scope {scope}."""

    code = "SCOPE_MISSING"


class SignInRequired(Forbidden):
    """An API key may not do this, whatever its scopes; sign in with a password."""

    code = "SIGN_IN_REQUIRED"


class ApiKeyInvalid(Unauthenticated):
    """The API key is not known, has expired or was revoked."""

    code = "API_KEY_INVALID"


class ApiKeyNotFound(NotFound):
    """There is no such API key."""

    code = "API_KEY_NOT_FOUND"


class RefreshTokenInvalid(Unauthenticated):
    """The refresh token is not valid, has expired or was used before; sign in again."""

    code = "REFRESH_TOKEN_INVALID"


class OneTimeTokenInvalid(Invalid):
    """This link is not valid, has expired, was used before or was replaced by a newer one; ask for another."""

    code = "ONE_TIME_TOKEN_INVALID"
