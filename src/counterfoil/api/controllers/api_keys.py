"""API keys over HTTP, for administrators."""

from __future__ import annotations

from typing import Annotated

import msgspec
from litestar import Controller, Response, delete, get, post
from litestar.params import Parameter

from counterfoil.api.answers import (
    AnyRequest,
    answer,
    next_page,
    open_cursor,
    problems,
    request_id,
    write,
    write_once,
)
from counterfoil.api.middleware.authentication import current_actor
from counterfoil.api.schemas.api_keys import ApiKeyPage, CreateApiKeyIn, NewApiKeyOut, render_key, render_new_key
from counterfoil.api.schemas.fields import ID_MAX
from counterfoil.infrastructure.database import run_in_thread
from counterfoil.users import api_keys
from counterfoil.users.permissions import Permission, require_person

KeyId = Annotated[int, Parameter(ge=1, le=ID_MAX, description="The key's id.")]


class ApiKeysController(Controller):
    """Ways in for programs: made once, shown once, revoked for good."""

    path = "/api/v1/api-keys"
    tags = ["API keys"]

    @get(
        summary="List API keys",
        responses=problems(400, 401, 403, 503),
        permission=Permission.API_KEYS_READ,
        sync_to_thread=True,
    )
    def list_keys(
        self,
        request: AnyRequest,
        limit: Annotated[int, Parameter(ge=1, le=200)] = 50,
        cursor: str | None = None,
    ) -> Response[ApiKeyPage]:
        """Answer one page of keys in the order of their making, revoked and expired ones too; never a secret."""
        found = run_in_thread(api_keys.list_keys, after=int(open_cursor(request, cursor) or 0), limit=limit + 1)
        shown = found[:limit]
        cursor_out, address = next_page(request, str(shown[-1].id) if len(found) > limit else None)
        return answer(ApiKeyPage([render_key(key) for key in shown], cursor_out, address))

    @post(
        summary="Make an API key",
        responses=problems(400, 401, 403, 409, 413, 415, 422, 503),
        permission=Permission.API_KEYS_WRITE,
        sync_to_thread=True,
    )
    def create_key(self, request: AnyRequest, data: CreateApiKeyIn) -> Response[NewApiKeyOut]:
        """Answer the key, once: a replay has `"key": null`, because the key itself is kept nowhere.

        For oneself or an account of role `service`. No API key may make keys.
        """
        require_person(current_actor(request))

        def create() -> NewApiKeyOut:
            record, secret = api_keys.create_key(
                user_id=data.user_id,
                name=data.name,
                scopes=data.scopes,
                days=data.expires_in_days,
                actor=current_actor(request),
                request_id=request_id(request),
            )
            return render_new_key(record, secret)

        return write_once(request, data, create, keep=lambda shown: msgspec.structs.replace(shown, key=None))

    @delete(
        "/{key_id:int}",
        summary="Revoke an API key",
        responses=problems(400, 401, 403, 404, 503),
        permission=Permission.API_KEYS_WRITE,
        sync_to_thread=True,
    )
    def revoke_key(self, request: AnyRequest, key_id: KeyId) -> None:
        """End a key for good, within 5 s everywhere; 204, also when it was revoked before. No API key may."""
        write(lambda: api_keys.revoke_key(key_id, actor=current_actor(request), request_id=request_id(request)))
