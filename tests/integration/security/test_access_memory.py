"""The memory of rights taken away: never older than five seconds, and without it nobody gets in (AN-05)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import jwt
import psycopg
import pytest
from accounts import SECONDS_MAX, bearer, register, sign_in

from conftest import SECRET, Service, running_service, with_database

Connection = psycopg.Connection[tuple[Any, ...]]


class Clock:
    """Time that stands still until it is told otherwise."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def with_access(database_url: str, check: Callable[[Any, Any, Clock], Awaitable[None]]) -> None:
    """Run a check with a memory of its own on a real pool, and nobody who refreshes it."""
    from counterfoil.infrastructure.database import connection_string
    from counterfoil.users.access import AccessControl

    async def run() -> None:
        import psycopg_pool

        clock = Clock()
        pool: Any = psycopg_pool.AsyncConnectionPool(
            connection_string(database_url), min_size=1, max_size=2, timeout=2, open=False, kwargs={"autocommit": True}
        )
        await pool.open()
        try:
            await check(AccessControl(pool, accepted=(SECRET,), clock=clock), pool, clock)
        finally:
            await pool.close()

    asyncio.run(run())


@pytest.fixture
def account(make_token: Callable[..., str]) -> tuple[int, str]:
    """An account's id and a token of it."""
    token = make_token("customer")
    return int(jwt.decode(token, options={"verify_signature": False})["sub"]), token


def test_a_memory_that_is_too_old_is_read_again_before_a_token_is_trusted(
    database_url: str, account: tuple[int, str], db: Connection
) -> None:
    from counterfoil.users.errors import TokenInvalid

    user_id, token = account

    async def check(access: Any, _: Any, clock: Clock) -> None:
        assert (await access.authenticate(token)).user_id == user_id
        db.execute("UPDATE users SET role = 'support' WHERE id = %s", [user_id])
        # Nobody refreshes here: within five seconds the old answer may still be given, after it not any more.
        clock.now += SECONDS_MAX
        assert (await access.authenticate(token)).user_id == user_id
        clock.now += 0.001
        with pytest.raises(TokenInvalid):
            await access.authenticate(token)

    with_access(database_url, check)


def test_without_a_database_nobody_gets_in_once_the_memory_is_too_old(
    database_url: str, account: tuple[int, str]
) -> None:
    from counterfoil.kernel.errors import Unavailable
    from counterfoil.users.errors import TokenInvalid

    user_id, token = account

    async def check(access: Any, pool: Any, clock: Clock) -> None:
        assert (await access.authenticate(token)).user_id == user_id
        await pool.close()
        assert (await access.authenticate(token)).user_id == user_id
        clock.now += SECONDS_MAX + 0.001
        for _ in range(3):
            with pytest.raises(Unavailable):
                await access.authenticate(token)
        with pytest.raises(Unavailable):
            await access.authenticate("cfk_" + "x" * 43)
        with pytest.raises(TokenInvalid):
            await access.authenticate("x.y.z")

    with_access(database_url, check)


def test_many_requests_that_find_the_memory_too_old_share_one_read(database_url: str, account: tuple[int, str]) -> None:
    user_id, token = account

    async def check(access: Any, pool: Any, clock: Clock) -> None:
        await access.authenticate(token)
        clock.now += SECONDS_MAX + 1
        before = pool.get_stats()["requests_num"]

        actors = await asyncio.gather(*(access.authenticate(token) for _ in range(100)))

        assert [actor.user_id for actor in actors] == [user_id] * 100
        assert pool.get_stats()["requests_num"] - before == 1

    with_access(database_url, check)


def test_reading_goes_on_where_it_stopped_and_starts_anew_when_another_server_took_over(
    database_url: str, account: tuple[int, str], db: Connection
) -> None:
    from counterfoil.users import access_repositories as repositories

    user_id, _ = account

    async def check(_: Any, pool: Any, __: Clock) -> None:
        async with pool.connection() as connection:
            everything, since = await repositories.read_revocations(connection, since=None)
            db.execute("UPDATE users SET token_epoch = 5 WHERE id = %s", [user_id])
            news, later = await repositories.read_revocations(connection, since=since)
            nothing, _ = await repositories.read_revocations(connection, since=later)
            anew, _ = await repositories.read_revocations(connection, since=later + 10**9)

        assert [(each.user_id, each.epoch) for each in news] == [(user_id, 5)]
        assert nothing == []
        assert len(anew) == len(everything) + 1

    with_access(database_url, check)


def test_security_AN_05_a_service_without_its_database_lets_nobody_in_and_recovers(
    make_database: Callable[[], str], postgres_url: str, make_token: Callable[..., str], tmp_path: Path
) -> None:
    url = make_database()
    name = url.rpartition("/")[2]
    token = make_token("admin", database_url=url)

    def status(client: httpx.Client) -> int:
        # Metrics come from memory: only the check of the token needs the database.
        return client.get("/metrics", headers=bearer(token)).status_code

    with (
        running_service(url, tmp_path) as service,
        service.client() as client,
        psycopg.connect(with_database(postgres_url, "postgres"), autocommit=True) as server,
    ):
        assert status(client) == 200
        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        server.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        closed = seconds(lambda: status(client) == 503)
        assert [status(client) for _ in range(3)] == [503] * 3
        assert client.get("/metrics", headers=bearer("x.y.z")).status_code == 401

        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        opened = seconds(lambda: status(client) == 200)

    print(f"closed after {closed:.1f} s, open again after {opened:.1f} s")
    assert closed < SECONDS_MAX + 2.5  # the read that fails may itself take two seconds
    assert token not in Path(service.log_path).read_text()


def seconds(condition: Callable[[], bool]) -> float:
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < 30, "it never came true"
        time.sleep(0.05)
    return time.monotonic() - started


def test_old_revocations_are_deleted_by_the_worker(service: Service, db: Connection, account: tuple[int, str]) -> None:
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.users.sessions import delete_old_revocations

    assert service.database_url
    user_id, _ = account
    db.execute("UPDATE users SET token_epoch = token_epoch + 1 WHERE id = %s", [user_id])
    db.execute(
        "INSERT INTO access_revocations (user_id, epoch, revoked_at) VALUES (%s, 1, now() - interval '121 minutes')",
        [user_id],
    )

    deleted = run_in_thread(delete_old_revocations, limit=10)

    left = db.execute("SELECT epoch FROM access_revocations WHERE user_id = %s", [user_id]).fetchall()
    assert deleted >= 1
    assert left == [(1,)]


def test_sign_ins_and_links_that_are_over_are_deleted_with_their_tokens(
    anonymous: httpx.Client, db: Connection, django_ready: None
) -> None:
    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.users.recovery import delete_done
    from counterfoil.users.sessions import delete_ended

    assert django_ready is None
    over, alive = register(anonymous), register(anonymous)
    for account in (over, alive):
        sign_in(anonymous, account)
        db.execute("UPDATE one_time_tokens SET next_attempt_at = NULL WHERE user_id = %s", [account["id"]])
    db.execute("UPDATE sign_ins SET expires_at = now() - interval '25 hours' WHERE user_id = %s", [over["id"]])
    db.execute("UPDATE one_time_tokens SET requested_at = now() - interval '31 days' WHERE user_id = %s", [over["id"]])

    deleted = [run_in_thread(delete_ended, limit=10), run_in_thread(delete_done, limit=10)]

    left = db.execute(
        "SELECT (SELECT array_agg(user_id) FROM sign_ins WHERE user_id = ANY (%(ids)s)),"
        " (SELECT array_agg(s.user_id) FROM refresh_tokens r JOIN sign_ins s ON s.id = r.sign_in_id"
        "  WHERE s.user_id = ANY (%(ids)s)),"
        " (SELECT array_agg(user_id) FROM one_time_tokens WHERE user_id = ANY (%(ids)s))",
        {"ids": [over["id"], alive["id"]]},
    ).fetchone()
    assert deleted == [1, 1]
    assert left == ([alive["id"]], [alive["id"]], [alive["id"]])
