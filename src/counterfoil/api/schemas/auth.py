"""Signing in, staying signed in, and getting back in, on the wire."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from counterfoil.api.schemas.fields import END
from counterfoil.api.schemas.users import Email, Password
from counterfoil.users.sessions import TOKEN_SECONDS, Tokens

# What any of our opaque tokens fits into; whether it is one, only its hash says.
OpaqueToken = Annotated[str, Meta(min_length=8, max_length=128, pattern=r"^[A-Za-z0-9_-]+" + END)]


class TokenIn(Struct, forbid_unknown_fields=True, frozen=True):
    """Who signs in."""

    email: Email
    password: Password


class TokenOut(Struct, frozen=True):
    """An access token, a refresh token for the next one, and for how many seconds each is valid."""

    access_token: str
    token_type: str
    expires_in: int
    refresh_token: str
    refresh_expires_in: int


class RefreshIn(Struct, forbid_unknown_fields=True, frozen=True):
    """A refresh token, which is used up by this."""

    refresh_token: OpaqueToken


class LogoutIn(Struct, forbid_unknown_fields=True, frozen=True):
    """Which session ends: that of a refresh token, else the caller's; with `everywhere` all of the account's."""

    refresh_token: OpaqueToken | None = None
    everywhere: bool = False


class PasswordResetIn(Struct, forbid_unknown_fields=True, frozen=True):
    """Whose password was forgotten."""

    email: Email


class NewPasswordIn(Struct, forbid_unknown_fields=True, frozen=True):
    """The token of the mail, and the new password."""

    token: OpaqueToken
    password: Password


class ConfirmEmailIn(Struct, forbid_unknown_fields=True, frozen=True):
    """The token of the mail."""

    token: OpaqueToken


class ResendIn(Struct, forbid_unknown_fields=True, frozen=True):
    """Who did not get the mail."""

    email: Email


def render_tokens(tokens: Tokens) -> TokenOut:
    """Turn the core's tokens into what is shown."""
    return TokenOut(tokens.access_token, "Bearer", TOKEN_SECONDS, tokens.refresh_token, tokens.refresh_seconds)
