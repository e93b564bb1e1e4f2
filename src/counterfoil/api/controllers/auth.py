"""Signing in over HTTP: tokens, new tokens, the end of them, and links that work once.

None of these takes an Idempotency-Key: tokens are stored nowhere, so there is nothing to replay.
"""

from __future__ import annotations

from litestar import Controller, Response, post

from counterfoil.api.answers import (
    AnyRequest,
    accepted,
    answer,
    client_address,
    in_hashing_thread,
    problems,
    request_id,
    write,
)
from counterfoil.api.middleware.authentication import optional_actor
from counterfoil.api.schemas.auth import (
    ConfirmEmailIn,
    LogoutIn,
    NewPasswordIn,
    PasswordResetIn,
    RefreshIn,
    ResendIn,
    TokenIn,
    TokenOut,
    render_tokens,
)
from counterfoil.infrastructure.database import run_in_thread
from counterfoil.users import recovery, sessions
from counterfoil.users.permissions import PUBLIC


class AuthController(Controller):
    """Signing in, staying signed in, signing out, and getting back in."""

    path = "/api/v1/auth"
    tags = ["Sign-in"]

    @post(
        "/token",
        summary="Sign in",
        status_code=200,
        responses=problems(400, 401, 413, 415, 503),
        permission=PUBLIC,
        credentials="ignored",
    )
    async def create_token(self, request: AnyRequest, data: TokenIn) -> Response[TokenOut]:
        """Exchange e-mail address and password for an access token (one hour) and a refresh token (30 days)."""
        address = client_address(request)
        tokens = await in_hashing_thread(
            request,
            lambda: run_in_thread(
                sessions.sign_in,
                email=data.email,
                password=data.password,
                address=address,
                request_id=request_id(request),
            ),
        )
        return answer(render_tokens(tokens))

    @post(
        "/refresh",
        summary="Get new tokens",
        status_code=200,
        responses=problems(400, 401, 413, 415, 503),
        permission=PUBLIC,
        credentials="ignored",
        sync_to_thread=True,
    )
    def refresh_token(self, request: AnyRequest, data: RefreshIn) -> Response[TokenOut]:
        """Exchange a refresh token for new tokens. It works once: a second use ends the whole session."""
        tokens = run_in_thread(sessions.refresh, data.refresh_token, request_id=request_id(request))
        return answer(render_tokens(tokens))

    @post(
        "/logout",
        summary="Sign out",
        status_code=204,
        responses=problems(400, 401, 403, 413, 415, 503),
        permission=PUBLIC,
        credentials="optional",
        sync_to_thread=True,
    )
    def log_out(self, request: AnyRequest, data: LogoutIn) -> None:
        """End the session of the refresh token in the body, else that of the access token; access ends within 5 s.

        With an access token that has expired, send the refresh token alone.
        """
        write(
            lambda: sessions.log_out(
                refresh_token=data.refresh_token,
                actor=optional_actor(request),
                everywhere=data.everywhere,
                request_id=request_id(request),
            )
        )

    @post(
        "/password-reset",
        summary="Ask for a new password",
        status_code=202,
        responses=problems(400, 413, 415, 503),
        permission=PUBLIC,
        credentials="ignored",
        sync_to_thread=True,
    )
    def request_password_reset(self, request: AnyRequest, data: PasswordResetIn) -> Response[None]:
        """Send a link that works once, within an hour. The answer does not tell whether there is such an account."""
        write(lambda: recovery.request_password_reset(data.email, request_id=request_id(request)))
        return accepted()

    @post(
        "/password-reset/confirm",
        summary="Choose a new password",
        status_code=204,
        responses=problems(400, 413, 415, 503),
        permission=PUBLIC,
        credentials="ignored",
    )
    async def reset_password(self, request: AnyRequest, data: NewPasswordIn) -> None:
        """Set a new password with the token of the mail; ends every session of the account."""
        await in_hashing_thread(
            request,
            lambda: run_in_thread(
                recovery.reset_password,
                data.token,
                password=data.password,
                address=client_address(request),
                request_id=request_id(request),
            ),
        )

    @post(
        "/email-confirmation",
        summary="Confirm an e-mail address",
        status_code=204,
        responses=problems(400, 413, 415, 503),
        permission=PUBLIC,
        credentials="ignored",
        sync_to_thread=True,
    )
    def confirm_email(self, request: AnyRequest, data: ConfirmEmailIn) -> None:
        """Confirm with the token of the mail that was sent after registering."""
        write(lambda: recovery.confirm_email(data.token, request_id=request_id(request)))

    @post(
        "/email-confirmation/resend",
        summary="Ask for the confirmation mail again",
        status_code=202,
        responses=problems(400, 413, 415, 503),
        permission=PUBLIC,
        credentials="ignored",
        sync_to_thread=True,
    )
    def resend_confirmation(self, request: AnyRequest, data: ResendIn) -> Response[None]:
        """Send the mail again; the link of the older one ends. The answer does not tell whether there is an account."""
        write(lambda: recovery.request_confirmation_again(data.email, request_id=request_id(request)))
        return accepted()
