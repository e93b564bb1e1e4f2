"""API keys: made once, shown once, revoked for good."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from typing import Final

from counterfoil.infrastructure.audit import declare_change
from counterfoil.infrastructure.database import transaction_required
from counterfoil.kernel.errors import ValidationFailed
from counterfoil.users import access_repositories, repositories
from counterfoil.users.access import KEY_PREFIX, hash_token
from counterfoil.users.access_repositories import ApiKeyRecord
from counterfoil.users.errors import ApiKeyNotFound, ErasureRequested
from counterfoil.users.permissions import Actor, Permission, Role, permissions_of, require_person

__all__ = ["DAYS_MAX", "ApiKeyRecord", "create_key", "list_keys", "revoke_key"]

# Two years: long enough for a contract, short enough that a forgotten key ends.
DAYS_MAX: Final = 730
_SECRET_BYTES: Final = 32
# `cfk_` and six characters: enough to find the key in a list, nothing to guess the rest from.
_SHOWN_CHARS: Final = 10


@transaction_required
def create_key(
    *,
    user_id: int,
    name: str,
    scopes: Collection[Permission],
    days: int,
    actor: Actor | None,
    request_id: str,
) -> tuple[ApiKeyRecord, str]:
    """Make a key that acts as `user_id`; returns its record and the key itself, which nobody can show again.

    Joins the open transaction. `actor` None is the command line, which may make any key. Over HTTP an administrator
    makes keys for himself and for accounts of programs: with a key of a person he would act as that person. Raises
    SignInRequired for a key that makes keys, ErasureRequested, and ValidationFailed when there is no such active
    account, when it is somebody else's, or when its role may not do what a scope names.
    """
    if actor is not None:
        require_person(actor)
    # Until the key is there: an erasure waits for it and finds it.
    if repositories.hold_account(user_id):
        raise ErasureRequested
    user = repositories.read_user(user_id)
    if user is None or not user.is_active:
        raise ValidationFailed([{"field": "user_id", "message": f"There is no active user {user_id}."}])
    if actor is not None and user_id != actor.user_id and user.role is not Role.SERVICE:
        message = f"User {user_id} is a person: make keys for yourself and for accounts of role service."
        raise ValidationFailed([{"field": "user_id", "message": message}])
    beyond = sorted(set(scopes) - permissions_of(user.role))
    if beyond:
        message = f"The role {user.role.value} may not do {', '.join(beyond)}."
        raise ValidationFailed([{"field": "scopes", "message": message}])
    principal = "cli" if actor is None else actor.principal
    secret = KEY_PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    declare_change(actor=principal, action="api_key.create", request_id=request_id)
    record = access_repositories.insert_api_key(
        {
            "user_id": user_id,
            "name": name,
            "prefix": secret[:_SHOWN_CHARS],
            "secret_hash": hash_token(secret),
            "scopes": sorted({scope.value for scope in scopes}),
            "created_by": principal,
            "days": days,
        }
    )
    return record, secret


def list_keys(*, after: int, limit: int) -> list[ApiKeyRecord]:
    """Return up to `limit` keys in the order of their making, above the id `after`; revoked ones too."""
    return access_repositories.read_api_keys(after=after, limit=limit)


@transaction_required
def revoke_key(key_id: int, *, actor: Actor, request_id: str) -> None:
    """Revoke a key for good, in every process within five seconds. Joins the open transaction. Idempotent.

    Raises ApiKeyNotFound, and SignInRequired for a key that revokes keys.
    """
    require_person(actor)
    declare_change(actor=actor.principal, action="api_key.revoke", request_id=request_id)
    if access_repositories.revoke_api_key(key_id) is None:
        raise ApiKeyNotFound
