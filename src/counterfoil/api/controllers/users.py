"""People over HTTP: register, own profile, administration."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, get, post, put
from litestar.concurrency import sync_to_thread
from litestar.params import Parameter

from counterfoil.api.answers import (
    AboutPerson,
    AnyRequest,
    answer,
    client_address,
    if_match,
    in_hashing_thread,
    next_page,
    open_cursor,
    problems,
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
from counterfoil.users import recovery, services, sessions
from counterfoil.users.errors import ScopeMissing
from counterfoil.users.permissions import PUBLIC, Actor, Permission, Role, may, require, require_person

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
    )
    async def create_user(self, request: AnyRequest, data: CreateUserIn) -> Response[UserOut]:
        """Create an account. Anybody may make one for a customer; other roles only an administrator, and no API key.

        For a customer an API key needs the scope `users:write`.
        """
        actor = optional_actor(request)
        if actor is not None and actor.key_id is not None and not may(actor, Permission.USERS_WRITE):
            raise ScopeMissing(scope=Permission.USERS_WRITE.value)
        if data.role is not Role.CUSTOMER:
            if actor is None:
                raise ValidationFailed([{"field": "role", "message": "Only an administrator may set a role."}])
            require(actor, Permission.USERS_WRITE)
            require_person(actor)
        return await in_hashing_thread(request, lambda: _create(request, data, actor))

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
    )
    async def update_me(self, request: AnyRequest, data: UpdateMeIn) -> Response[UserOut]:
        """Change name, password or profile. A new password wants `current_password` and ends every session.

        An API key may not set one.
        """
        actor = current_actor(request)
        if data.password is not None:
            require_person(actor)
            current = data.current_password
            if current is None:
                message = "Send your current password with the new one."
                raise ValidationFailed([{"field": "current_password", "message": message}])
            await in_hashing_thread(request, lambda: _confirm_password(request, current))
        return await _update(request, actor.user_id, data)

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
    )
    async def update_user(self, request: AnyRequest, user_id: UserId, data: UpdateUserIn) -> Response[UserOut]:
        """Change an account, for administrators; an API key may set neither password nor role nor activity."""
        if data.password is not None or data.role is not None or data.is_active is not None:
            require_person(current_actor(request))
        return await _update(request, user_id, data)


def _create(request: AnyRequest, data: CreateUserIn, actor: Actor | None) -> Response[Any]:
    email = _canonical(data.email)
    hashed: list[str] = []

    def create() -> AboutPerson:
        user = services.create_user(
            email=email,
            name=data.name,
            password_hash=hashed[0],
            role=data.role,
            actor=actor.principal if actor else "",
            request_id=request_id(request),
        )
        recovery.request_confirmation(user.id)
        return AboutPerson(render_user(user), user.subject_id)

    def read_again(replay: Answer) -> None:
        # Staff see the person's data once more, as with GET: that leaves its entry too.
        if actor is not None:
            user_id = msgspec.json.decode(replay.body, type=_Identified).id
            write(lambda: services.inspect_user(user_id, **_reader(request)))

    # Somebody without an account has no scope for keys but the address that registers.
    principal = actor.principal if actor else run_in_thread(services.registration_principal, email)
    return write_once(
        request,
        data,
        create,
        principal=principal,
        prepare=lambda: hashed.append(services.hash_password(data.password, email=email, name=data.name)),
        replaying=read_again,
    )


def _confirm_password(request: AnyRequest, current: str) -> None:
    run_in_thread(
        sessions.confirm_password,
        current_actor(request).user_id,
        password=current,
        address=client_address(request),
        request_id=request_id(request),
    )


async def _update(request: AnyRequest, user_id: int, data: UpdateMeIn | UpdateUserIn) -> Response[Any]:
    values: dict[str, Any] = {
        name: value
        for name in ("name", "password", "role", "is_active")
        if (value := getattr(data, name, None)) is not None
    }
    if not values and data.profile is None:
        raise ValidationFailed([{"field": "body", "message": "Name at least one field to change."}])
    if (password := values.get("password")) is not None:
        values["password"] = await in_hashing_thread(
            request,
            lambda: run_in_thread(services.prepare_password, password, user_id=user_id, name=data.name),
        )
    change = partial(
        services.update_user,
        user_id,
        values=values,
        profile=None if data.profile is None else data.profile.to_record(),
        etag=if_match(request),
        actor=current_actor(request).principal,
        request_id=request_id(request),
    )
    user: services.UserRecord = await sync_to_thread(write, change)
    return answer(render_user(user), etag=user.etag)


def _reader(request: AnyRequest) -> dict[str, str]:
    """Name who reads somebody's data, for the entry that every reading by staff leaves."""
    return {"actor": current_actor(request).principal, "request_id": request_id(request)}


def _canonical(email: str) -> str:
    try:
        return services.normalise_email(email)
    except ValueError as error:
        raise ValidationFailed([{"field": "email", "message": f"This is {error}."}]) from error
