"""Access tokens: signed, for one hour, naming the account and its role."""

from __future__ import annotations

import secrets
import time
from typing import Final

import jwt

from counterfoil.users.errors import TokenInvalid
from counterfoil.users.permissions import Actor, Role

TOKEN_SECONDS: Final = 3600
_ALGORITHM: Final = "HS256"
_ISSUER: Final = "counterfoil"
_AUDIENCE: Final = "counterfoil-api"
_TYPE: Final = "at+jwt"  # RFC 9068: an access token, so that no other kind of token passes for one
_CACHE_MAX: Final = 4096
_ID_MAX: Final = 2**63 - 1

# Verified tokens, by their text: checking a signature costs 25 µs, a look-up 0.1 µs. Expiry is checked each time.
_verified: dict[str, tuple[Actor, int]] = {}


def issue_token(actor: Actor, *, secret: str) -> str:
    """Sign an access token that is valid for one hour from now."""
    now = int(time.time())
    claims = {
        "iss": _ISSUER,
        "aud": _AUDIENCE,
        "sub": str(actor.user_id),
        "role": actor.role.value,
        "jti": secrets.token_urlsafe(12),
        "iat": now,
        "exp": now + TOKEN_SECONDS,
    }
    return jwt.encode(claims, secret, algorithm=_ALGORITHM, headers={"typ": _TYPE})


def verify_token(token: str, *, secret: str) -> Actor:
    """Return whom the token was issued to; raises TokenInvalid for anything but a live token of ours."""
    known = _verified.get(token)
    if known is None:
        known = _decode(token, secret)
        if len(_verified) >= _CACHE_MAX:
            _verified.clear()
        _verified[token] = known
    actor, expires = known
    if time.time() >= expires:
        _verified.pop(token, None)
        raise TokenInvalid
    return actor


def _decode(token: str, secret: str) -> tuple[Actor, int]:
    try:
        complete = jwt.decode_complete(
            token,
            secret,
            algorithms=[_ALGORITHM],
            issuer=_ISSUER,
            audience=_AUDIENCE,
            options={"require": ["exp", "iat", "iss", "aud", "sub", "jti"], "strict_aud": True},
        )
        if complete["header"].get("typ") != _TYPE or "crit" in complete["header"]:
            raise TokenInvalid
        claims = complete["payload"]
        user_id = int(claims["sub"])
        if not 0 < user_id <= _ID_MAX:
            raise TokenInvalid
        return Actor(user_id, Role(claims["role"])), int(claims["exp"])
    except (jwt.PyJWTError, KeyError, ValueError) as error:
        raise TokenInvalid from error
