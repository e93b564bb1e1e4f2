"""One PostgreSQL and one running service per test session; every test makes its own people and products."""

from __future__ import annotations

import atexit
import base64
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import psycopg
import pytest

SECRET = "test-secret-" + secrets.token_hex(32)
os.environ["COUNTERFOIL_SECRET"] = SECRET
os.environ["COUNTERFOIL_DEMO"] = "1"
# All tests come from one address; those about limits set their own.
os.environ["COUNTERFOIL_LIMIT_FACTOR"] = "10000"
# So do they pay none of their orders; those about holds set their own as well.
os.environ["COUNTERFOIL_OPEN_ORDERS_MAX"] = "0"
os.environ["COUNTERFOIL_OPEN_UNITS_MAX"] = "0"
os.environ["COUNTERFOIL_KEYS_URL"] = ""  # the keys of each database in a schema of its own
_master_keys, os.environ["COUNTERFOIL_MASTER_KEYS_FILE"] = tempfile.mkstemp(prefix="counterfoil-test-keys-")
os.write(_master_keys, base64.b64encode(bytes([255, *secrets.token_bytes(31)])))
os.close(_master_keys)
atexit.register(Path(os.environ["COUNTERFOIL_MASTER_KEYS_FILE"]).unlink, missing_ok=True)
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "counterfoil.config.settings")


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real server of this session: TEST_DATABASE_URL when it is set, else the embedded one."""
    if given := os.environ.get("TEST_DATABASE_URL"):
        yield given
        return
    from counterfoil.infrastructure.embedded_postgres import EmbeddedPostgres

    with EmbeddedPostgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server.url


def with_database(url: str, name: str) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@pytest.fixture(scope="session")
def empty_database(postgres_url: str) -> Iterator[Callable[[], str]]:
    """Make an empty database on the session's server; returns its URL. Dropped at the end of the session."""
    made: list[str] = []

    def make() -> str:
        made.append(f"cf_test_{secrets.token_hex(6)}")
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{made[-1]}"')
        return with_database(postgres_url, made[-1])

    yield make
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for name in made:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


@pytest.fixture(scope="session")
def migrated_database(empty_database: Callable[[], str]) -> str:
    """Name of a migrated database that nobody connects to: others are copied from it, in a tenth of the time."""
    url = empty_database()
    run_counterfoil("migrate", DATABASE_URL=url)
    return urlsplit(url).path.removeprefix("/")


@pytest.fixture(scope="session")
def make_database(postgres_url: str, migrated_database: str) -> Iterator[Callable[[], str]]:
    """Make a fresh, migrated database on the session's server; returns its URL. Dropped at the end of the session."""
    made: list[str] = []

    def make() -> str:
        name = f"cf_test_{secrets.token_hex(6)}"
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{migrated_database}"')
            # Rights on a database as a whole are not copied with it.
            connection.execute(f'REVOKE TEMPORARY ON DATABASE "{name}" FROM PUBLIC')
        made.append(name)
        return with_database(postgres_url, name)

    yield make
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for name in made:
            connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def run_counterfoil(
    *arguments: str, check: bool = True, seconds: float = 240, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "counterfoil", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=check,
        timeout=seconds,
    )


@pytest.fixture(scope="session")
def database_url(make_database: Callable[[], str]) -> str:
    """The database of the session's service."""
    return make_database()


@dataclass
class Service:
    """A running web process."""

    url: str
    database_url: str
    process: subprocess.Popen[bytes]
    log_path: Path
    tokens: dict[str, str] = field(default_factory=dict)

    def client(self, token: str | None = None) -> httpx.Client:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=30)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_service(
    database_url: str, directory: Path, *, port: int | None = None, **environment: str
) -> Iterator[Service]:
    """Run `counterfoil serve` until the block ends; it is stopped by its own pid. `port`: to take over an address."""
    port = port or free_port()
    log_path = directory / f"serve-{port}.log"
    with log_path.open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "counterfoil", "serve", "--port", str(port)],
            env={**os.environ, "DATABASE_URL": database_url, **environment},
            stdout=log,
            stderr=log,
        )
        service = Service(f"http://127.0.0.1:{port}", database_url, process, log_path)
        try:
            wait_until_ready(service)
            yield service
        finally:
            process.terminate()
            process.wait(45)


@contextmanager
def running_worker(database_url: str, directory: Path, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run `counterfoil work` until the block ends; it is stopped by its own pid."""
    with (directory / f"work-{secrets.token_hex(4)}.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "counterfoil", "work"],
            env={**os.environ, "DATABASE_URL": database_url, **environment},
            stdout=log,
            stderr=log,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(45)


def wait_until_ready(service: Service) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        assert service.process.poll() is None, service.log_path.read_text()
        try:
            if httpx.get(service.url + "/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    pytest.fail("the service was not ready after 30 s: " + service.log_path.read_text())


@pytest.fixture(scope="session")
def service(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The session's service on a database of its own; at the end every identity of the domain must hold."""
    with running_service(database_url, tmp_path_factory.mktemp("service")) as running:
        yield running
    report = run_counterfoil("reconcile", check=False, DATABASE_URL=database_url)
    assert report.returncode == 0, report.stdout + report.stderr


@pytest.fixture(scope="session")
def django_ready(database_url: str) -> None:
    """Set Django up in the test process, on the session's database, for making people and tokens."""
    os.environ["DATABASE_URL"] = database_url
    import django

    django.setup()


@pytest.fixture(scope="session")
def make_token(django_ready: None, database_url: str) -> Callable[..., str]:
    """Make an account with a role straight in the database and return an access token for it."""
    assert django_ready is None

    def make(role: str = "customer", **values: Any) -> str:
        from counterfoil.users.permissions import Actor, Role
        from counterfoil.users.services import issue_token

        if "email" in values:
            return issue_token(Actor(make_person(values["email"], Role(role)), Role(role)))
        # Without address and name there is nothing to seal, and any database will do.
        with psycopg.connect(values.get("database_url", database_url), autocommit=True) as connection:
            row = connection.execute(
                "INSERT INTO users (role, password) VALUES (%s, '!') RETURNING id", [role]
            ).fetchone()
        assert row is not None
        return issue_token(Actor(row[0], Role(role)))

    return make


def make_person(email: str, role: Any) -> int:
    """Make an account with an address in the session's database, as a loader of data does; returns its id."""
    from counterfoil.infrastructure.database import run_in_thread, transaction
    from counterfoil.users.services import NewUser, create_users

    def create() -> int:
        with transaction():
            new = NewUser(email, email.partition("@")[0], role)
            return create_users([new], actor="test", request_id="test-request", reason="")[email]

    return run_in_thread(create)


@pytest.fixture(scope="module")
def till(
    request: pytest.FixtureRequest,
    make_database: Callable[[], str],
    make_token: Callable[..., str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Any]:
    """A shop of the module's own that takes money, with the settings in its TILL: see settlement/till.py."""
    from till import open_till

    settings = getattr(request.module, "TILL", {})
    with open_till(make_database(), make_token, tmp_path_factory.mktemp("till"), **settings) as shop:
        yield shop


@pytest.fixture
def db(database_url: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """A connection to the session's database, to look and never to act."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def admin(service: Service, make_token: Callable[..., str]) -> Iterator[httpx.Client]:
    """A client signed in as an administrator of its own."""
    with service.client(make_token("admin")) as client:
        yield client


@pytest.fixture
def customer(service: Service, make_token: Callable[..., str]) -> Iterator[httpx.Client]:
    """A client signed in as a customer of its own."""
    with service.client(make_token("customer")) as client:
        yield client


@pytest.fixture
def anonymous(service: Service) -> Iterator[httpx.Client]:
    """A client without credentials."""
    with service.client() as client:
        yield client


@pytest.fixture
def make_product(admin: httpx.Client) -> Callable[..., int]:
    """Make a product with stock through the API; returns its id."""

    def make(*, stock: int = 100, price: str = "19.99", currency: str = "EUR", **values: Any) -> int:
        body = {"sku": f"T-{secrets.token_hex(6)}", "name": "Tea", "price": price, "currency": currency, **values}
        answer = admin.post("/api/v1/products", json=body)
        assert answer.status_code == 201, answer.text
        product_id = int(answer.json()["id"])
        if stock:
            answer = admin.post(
                f"/api/v1/inventory/{product_id}/movements",
                json={"kind": "receipt", "quantity": stock},
                headers={"Idempotency-Key": secrets.token_hex(16)},
            )
            assert answer.status_code == 201, answer.text
        return product_id

    return make


_EVERYTHING = """
SELECT (SELECT count(*) FROM users), (SELECT sum(version) FROM users),
       (SELECT count(*) FROM products), (SELECT sum(version) FROM products),
       (SELECT count(*) FROM orders), (SELECT sum(version) FROM orders), (SELECT count(*) FROM order_items),
       (SELECT count(*) FROM adjustments), (SELECT count(*) FROM coupons), (SELECT sum(version) FROM coupons),
       (SELECT sum(used) FROM coupons), (SELECT count(*) FROM coupon_uses WHERE released_at IS NULL),
       (SELECT sum(on_hand) FROM stock_levels), (SELECT sum(reserved) FROM stock_levels),
       (SELECT count(*) FROM stock_movements), (SELECT count(*) FROM outbox_events),
       (SELECT count(*) FROM event_deliveries WHERE state = 'dead'),
       (SELECT count(*) FROM audit_entries), (SELECT count(*) FROM idempotency_keys),
       (SELECT count(*) FROM fulfillments), (SELECT sum(version) FROM fulfillments),
       (SELECT sum(shipped) FROM order_items),
       (SELECT count(*) FROM returns), (SELECT sum(version) FROM returns), (SELECT sum(returned) FROM order_items),
       (SELECT count(*) FROM holds), (SELECT count(*) FROM holds WHERE released_at IS NULL),
       (SELECT count(*) FROM order_notes), (SELECT sum(allocated) FROM stock_levels),
       (SELECT count(*) FROM sign_ins), (SELECT count(*) FROM sign_ins WHERE revoked_at IS NULL),
       (SELECT count(*) FROM refresh_tokens), (SELECT count(*) FROM refresh_tokens WHERE used_at IS NULL),
       (SELECT count(*) FROM api_keys), (SELECT count(*) FROM api_keys WHERE revoked_at IS NULL),
       (SELECT count(*) FROM one_time_tokens WHERE used_at IS NOT NULL), (SELECT max(id) FROM access_revocations),
       (SELECT count(*) FROM payments), (SELECT sum(version) FROM payments),
       (SELECT count(*) FROM payment_attempts), (SELECT sum(fence) FROM payment_attempts),
       (SELECT count(*) FROM refunds), (SELECT sum(version) FROM refunds), (SELECT count(*) FROM ledger_entries)
"""


@pytest.fixture
def nothing_written(
    db: psycopg.Connection[tuple[Any, ...]],
) -> Callable[[], AbstractContextManager[None]]:
    """Make a block that fails when anything in the session's database is different at its end."""

    @contextmanager
    def unchanged() -> Iterator[None]:
        before = db.execute(_EVERYTHING).fetchone()
        yield
        assert db.execute(_EVERYTHING).fetchone() == before

    return unchanged


# ---------------------------------------------------------------- limits and the door
# What `serve` needs outside demo mode; 127.0.0.1 plays the proxy.
PRODUCTION = {
    "COUNTERFOIL_DEMO": "0",
    "COUNTERFOIL_PUBLIC_URL": "https://shop.example",
    "COUNTERFOIL_ALLOWED_HOSTS": "shop.example",
    "COUNTERFOIL_TRUSTED_PROXIES": "127.0.0.1",
}
# What the proxy sends along.
PROXIED = {"Host": "shop.example", "X-Forwarded-Proto": "https", "X-Forwarded-For": "198.51.100.7"}


class Redis:
    """A Redis server of the test's own, without persistence."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process = subprocess.Popen(
            [
                *("/usr/bin/redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--save", ""),
                *("--appendonly", "no", "--dir", str(directory)),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while True:
            assert self.process.poll() is None, "redis-server did not start"
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                assert time.monotonic() < deadline, "redis-server does not listen"
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(10)


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    yield server
    if server.process.poll() is None:
        server.process.kill()
        server.process.wait(10)


@pytest.fixture
def serve(database_url: str, tmp_path: Path) -> Callable[..., AbstractContextManager[Service]]:
    """Run one more service on the session's database, with settings of the test's own and unmultiplied limits."""

    def run(**environment: str) -> AbstractContextManager[Service]:
        return running_service(database_url, tmp_path, **{"COUNTERFOIL_LIMIT_FACTOR": "1", **environment})

    return run


@pytest.fixture(scope="session")
def production(database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service outside demo mode, on the session's database."""
    with running_service(database_url, tmp_path_factory.mktemp("production"), **PRODUCTION) as running:
        yield running


# ---------------------------------------------------------------- payments
@pytest.fixture
def payable_order(
    customer: httpx.Client, make_product: Callable[..., int], database_url: str
) -> Iterator[Callable[[], int]]:
    """Place orders of 40.00 EUR with the running service; returns their ids.

    What tests pay of them without the orders' knowledge is taken out again: the session's books must agree at its end.
    """
    placed: list[int] = []

    def place() -> int:
        body = {"items": [{"product_id": make_product(price="20.00"), "quantity": 2}]}
        answer = customer.post("/api/v1/orders", json=body, headers={"Idempotency-Key": secrets.token_hex(16)})
        assert answer.status_code == 201, answer.text
        placed.append(int(answer.json()["id"]))
        return placed[-1]

    yield place
    these = "(SELECT id FROM payments WHERE order_id = ANY (%(orders)s))"
    with psycopg.connect(database_url) as connection:
        connection.execute("SET LOCAL session_replication_role = replica")
        for statement in (
            f"UPDATE gateway_notices SET payment_id = NULL WHERE payment_id IN {these}",  # noqa: S608 - fixed text
            "DELETE FROM ledger_entries WHERE order_id = ANY (%(orders)s)",
            f"DELETE FROM payment_attempts WHERE payment_id IN {these}",  # noqa: S608 - fixed text
            "DELETE FROM refunds WHERE order_id = ANY (%(orders)s)",
            "DELETE FROM payments WHERE order_id = ANY (%(orders)s)",
        ):
            connection.execute(statement.encode(), {"orders": placed})


@pytest.fixture
def desk(django_ready: None, payable_order: Callable[[], int], db: psycopg.Connection[tuple[Any, ...]]) -> Any:
    """One order, a pretended gateway and a worker's steps: see tests/integration/payments/desk.py."""
    from desk import Desk

    assert django_ready is None
    return Desk(payable_order(), db)
