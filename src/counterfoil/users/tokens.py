"""Access tokens: signed, for one hour, naming the account, its role, its epoch and its sign-in."""

from __future__ import annotations

import functools
import hashlib
import secrets
import time
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import jwt
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from counterfoil.users.errors import TokenInvalid
from counterfoil.users.permissions import Actor, Role

TOKEN_SECONDS: Final = 3600
_ALGORITHM: Final = "HS256"
_ISSUER: Final = "counterfoil"
_AUDIENCE: Final = "counterfoil-api"
_TYPE: Final = "at+jwt"  # RFC 9068: an access token, so that no other kind of token passes for one
_KEY_BYTES: Final = 32  # as long as the hash, RFC 7518 section 3.2
_CACHE_MAX: Final = 4096
_ID_MAX: Final = 2**63 - 1
_SESSION_CHARS: Final = 36  # a UUID


class AccessToken(NamedTuple):
    """A token whose signature was right: whose it is, the account's epoch when it was signed, and its end."""

    actor: Actor
    epoch: int
    expires: int


class SigningKey(NamedTuple):
    """A key derived from a secret, and the name it has in the header of a token."""

    kid: str
    key: bytes


# Verified tokens, by their text: checking a signature costs 25 µs, a look-up 0.1 µs. Expiry is checked each time.
_verified: dict[str, AccessToken] = {}


def issue_token(actor: Actor, *, secret: str, epoch: int = 0) -> str:
    """Sign an access token that is valid for one hour from now; without a session it cannot be logged out alone."""
    now = int(time.time())
    signing = derive_signing_key(secret)
    claims: dict[str, Any] = {
        "iss": _ISSUER,
        "aud": _AUDIENCE,
        "sub": str(actor.user_id),
        "role": actor.role.value,
        "epoch": epoch,
        "jti": secrets.token_urlsafe(12),
        "iat": now,
        "exp": now + TOKEN_SECONDS,
    }
    if actor.session is not None:
        claims["sid"] = actor.session
    return jwt.encode(claims, signing.key, algorithm=_ALGORITHM, headers={"typ": _TYPE, "kid": signing.kid})


def verify_token(token: str, *, accepted: Sequence[str]) -> AccessToken:
    """Return what a live token of ours says; raises TokenInvalid for anything else.

    `accepted` are the secret in use and the older ones that still count. Whether the rights were taken away since
    is for `users.access` to say.
    """
    known = _verified.get(token)
    if known is None:
        known = _decode(token, accepted)
        if len(_verified) >= _CACHE_MAX:
            _verified.clear()
        _verified[token] = known
    if time.time() >= known.expires:
        _verified.pop(token, None)
        raise TokenInvalid
    return known


@functools.lru_cache(maxsize=16)  # the secret in use and a handful of older ones
def derive_signing_key(secret: str) -> SigningKey:
    """Derive the key that signs access tokens from a secret: nothing else is ever signed with it."""
    key = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=b"counterfoil access token v1").derive(
        secret.encode()
    )
    return SigningKey(hashlib.sha256(b"kid\0" + key).hexdigest()[:16], key)


def _decode(token: str, accepted: Sequence[str]) -> AccessToken:
    try:
        key = {signing.kid: signing.key for signing in map(derive_signing_key, accepted)}[_key_id(token)]
        complete = jwt.decode_complete(
            token,
            key,
            algorithms=[_ALGORITHM],
            issuer=_ISSUER,
            audience=_AUDIENCE,
            options={"require": ["exp", "iat", "iss", "aud", "sub", "jti"], "strict_aud": True},
        )
        if complete["header"].get("typ") != _TYPE or "crit" in complete["header"]:
            raise TokenInvalid
        return _read_claims(complete["payload"])
    except (jwt.PyJWTError, KeyError, ValueError, TypeError) as error:
        raise TokenInvalid from error


def _key_id(token: str) -> str:
    kid = jwt.get_unverified_header(token)["kid"]
    return str(kid)


def _read_claims(claims: dict[str, Any]) -> AccessToken:
    user_id, epoch, session = int(claims["sub"]), claims["epoch"], claims.get("sid")
    if not 0 < user_id <= _ID_MAX or type(epoch) is not int or epoch < 0:
        raise TokenInvalid
    if session is not None and (not isinstance(session, str) or len(session) != _SESSION_CHARS):
        raise TokenInvalid
    return AccessToken(Actor(user_id, Role(claims["role"]), session=session), epoch, int(claims["exp"]))
