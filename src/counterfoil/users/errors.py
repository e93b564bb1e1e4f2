"""What can go wrong with people and their access."""

from __future__ import annotations

from counterfoil.kernel.errors import Conflict, Forbidden, LimitExceeded, NotFound, Unauthenticated


class CredentialsMissing(Unauthenticated):
    """Send an access token in the header `Authorization: Bearer …`; POST /api/v1/auth/token issues one."""

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


class EmailTaken(Conflict):
    """An account with this e-mail address exists already."""

    code = "EMAIL_TAKEN"


class UserChanged(Conflict):
    """The account has changed since you read it; read it again and repeat your change with the new ETag."""

    code = "USER_CHANGED"


class TooManyAttempts(LimitExceeded):
    """Too many attempts to sign in; try again in {retry_after_seconds} seconds."""

    code = "TOO_MANY_ATTEMPTS"
