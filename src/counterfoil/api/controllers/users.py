"""People over HTTP: register, own profile, administration."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, get, post, put
from litestar.params import Parameter

from counterfoil.api.answers import (
    AboutPerson,
    AnyRequest,
    answer,
    if_match,
    next_page,
    open_cursor,
    problems,
    refuse_unknown_parameters,
    request_id,
    write,
    write_once,
)
from counterfoil.api.middleware.authentication import current_actor, optional_actor
from counterfoil.api.schemas.fields import ID_MAX
from counterfoil.api.schemas.users import (
    CreateUserIn,
    UpdateMeIn,
    UpdateUserIn,
    UserOut,
    UserPage,
    render_user,
)
from counterfoil.infrastructure.database import run_in_thread
from counterfoil.infrastructure.idempotency import Answer
from counterfoil.kernel.errors import ValidationFailed
from counterfoil.users import recovery, services
from counterfoil.users.permissions import PUBLIC, Permission, Role, require, require_person

UserId = Annotated[int, Parameter(ge=1, le=ID_MAX, description="The account's id.")]


class _Identified(msgspec.Struct):
    id: int


class UsersController(Controller):
    """Accounts and profiles."""

    path = "/api/v1/users"
    tags = ["Users"]

    @post(
        summary="Register, or create an account",
        responses=problems(400, 401, 403, 409, 413, 415, 422, 503),
        permission=PUBLIC,
        credentials="optional",
        sync_to_thread=True,
    )
    def create_user(self, request: AnyRequest, data: CreateUserIn) -> Response[UserOut]:
        """Create an account. Anybody may make one for a customer; other roles only an administrator."""
        actor = optional_actor(request)
        if data.role is not Role.CUSTOMER:
            if actor is None:
                raise ValidationFailed([{"field": "role", "message": "Only an administrator may set a role."}])
            require(actor, Permission.USERS_WRITE)
        email = _canonical(data.email)

        def create() -> AboutPerson:
            user = services.create_user(
                email=email,
                name=data.name,
                password=data.password,
                role=data.role,
                actor=actor.principal if actor else "",
                request_id=request_id(request),
            )
            recovery.request_confirmation(user.id)
            return AboutPerson(render_user(user), user.subject_id)

        # Somebody without an account has no scope for keys but the address that registers.
        principal = actor.principal if actor else run_in_thread(services.registration_principal, email)

        def read_again(replay: Answer) -> None:
            # Staff see the person's data once more, as with GET: that leaves its entry too.
            if actor is not None:
                user_id = msgspec.json.decode(replay.body, type=_Identified).id
                write(lambda: services.inspect_user(user_id, **_reader(request)))

        return write_once(request, data, create, principal=principal, replaying=read_again)

    @get(
        "/me",
        summary="Read one's own account",
        responses=problems(401, 403, 503),
        permission=Permission.ACCOUNT_SELF,
        sync_to_thread=True,
    )
    def get_me(self, request: AnyRequest) -> Response[UserOut]:
        """Answer the caller's account and profile."""
        user = run_in_thread(services.find_user, current_actor(request).user_id)
        return answer(render_user(user), etag=user.etag)

    @put(
        "/me",
        summary="Change one's own account",
        responses=problems(400, 401, 403, 404, 409, 412, 413, 415, 503),
        permission=Permission.ACCOUNT_SELF,
        sync_to_thread=True,
    )
    def update_me(self, request: AnyRequest, data: UpdateMeIn) -> Response[UserOut]:
        """Change name, password or profile; a new password ends every session, and an API key may not set one."""
        actor = current_actor(request)
        if data.password is not None:
            require_person(actor)
        return _update(request, actor.user_id, data)

    @get(
        summary="List accounts",
        responses=problems(400, 401, 403, 503),
        permission=Permission.USERS_READ,
        sync_to_thread=True,
    )
    def list_users(
        self,
        request: AnyRequest,
        limit: Annotated[int, Parameter(ge=1, le=200)] = 50,
        cursor: str | None = None,
    ) -> Response[UserPage]:
        """Answer one page of accounts in the order of creation, for administrators."""
        refuse_unknown_parameters(request, frozenset({"limit", "cursor"}))
        after = int(open_cursor(request, cursor) or 0)
        shown, more = write(lambda: services.inspect_page(after=after, limit=limit, **_reader(request)))
        cursor_out, address = next_page(request, str(shown[-1].id) if more else None)
        return answer(UserPage([render_user(user) for user in shown], cursor_out, address))

    @get(
        "/{user_id:int}",
        summary="Read an account",
        responses=problems(400, 401, 403, 404, 503),
        permission=Permission.USERS_READ,
        sync_to_thread=True,
    )
    def get_user(self, request: AnyRequest, user_id: UserId) -> Response[UserOut]:
        """Answer one account, for administrators."""
        user: services.UserRecord = write(lambda: services.inspect_user(user_id, **_reader(request)))
        return answer(render_user(user), etag=user.etag)

    @put(
        "/{user_id:int}",
        summary="Change an account",
        responses=problems(400, 401, 403, 404, 409, 412, 413, 415, 503),
        permission=Permission.USERS_WRITE,
        sync_to_thread=True,
    )
    def update_user(self, request: AnyRequest, user_id: UserId, data: UpdateUserIn) -> Response[UserOut]:
        """Change an account, for administrators."""
        return _update(request, user_id, data)


def _update(request: AnyRequest, user_id: int, data: UpdateMeIn | UpdateUserIn) -> Response[Any]:
    values: dict[str, Any] = {
        name: value
        for name in ("name", "password", "role", "is_active")
        if (value := getattr(data, name, None)) is not None
    }
    if not values and data.profile is None:
        raise ValidationFailed([{"field": "body", "message": "Name at least one field to change."}])
    user: services.UserRecord = write(
        lambda: services.update_user(
            user_id,
            values=values,
            profile=None if data.profile is None else data.profile.to_record(),
            etag=if_match(request),
            actor=current_actor(request).principal,
            request_id=request_id(request),
        )
    )
    return answer(render_user(user), etag=user.etag)


def _reader(request: AnyRequest) -> dict[str, str]:
    """Name who reads somebody's data, for the entry that every reading by staff leaves."""
    return {"actor": current_actor(request).principal, "request_id": request_id(request)}


def _canonical(email: str) -> str:
    try:
        return services.normalise_email(email)
    except ValueError as error:
        raise ValidationFailed([{"field": "email", "message": f"This is {error}."}]) from error
