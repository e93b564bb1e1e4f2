"""Erasure, export, encryption at rest: nothing of a person is left, and nothing of a sale is lost."""

from __future__ import annotations

import base64
import csv
import io
import os
import re
import secrets
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any

import httpx
import psycopg
import pytest
from private_shop import Shop, make_shop

from conftest import Service, run_counterfoil
from counterfoil.infrastructure.postgres_binaries import find_binaries
from counterfoil.privacy.register import NOT_PERSONAL, PERSONAL

USERS, ORDERS, TOKEN = "/api/v1/users", "/api/v1/orders", "/api/v1/auth/token"
PASSWORD = "correct horse battery"
FIELDS = ("phone", "address_line1", "address_line2", "postal_code", "city")


class Person:
    """Somebody with a word of their own in every field there is."""

    def __init__(self) -> None:
        self.mark = secrets.token_hex(4)
        self.email = f"cnry{self.mark}mail@example.com"
        self.name = f"Cnry{self.mark}name"
        self.profile = {field: f"cnry{self.mark}{field}"[:20] for field in FIELDS} | {"country_code": "DE"}
        self.key = {"Idempotency-Key": f"registration-{secrets.token_hex(8)}"}
        self.id = 0
        self.token = ""

    def register(self, service: Service) -> None:
        with service.client() as client:
            body = {"email": self.email, "name": self.name, "password": PASSWORD}
            registered = client.post(USERS, json=body, headers=self.key)
            assert registered.status_code == 201, registered.text
            assert client.post(USERS, json=body, headers=self.key).content == registered.content
            self.id = registered.json()["id"]
            signed_in = client.post(TOKEN, json={"email": self.email, "password": PASSWORD})
            self.token = signed_in.json()["access_token"]
        with service.client(self.token) as client:
            assert client.put(f"{USERS}/me", json={"profile": self.profile}).status_code == 200

    def buy(self, service: Service, product_id: int, *, orders: int) -> list[int]:
        """Place orders, each under a key of its own."""
        with service.client(self.token) as client:
            items = [{"product_id": product_id, "quantity": 1}]
            keys = [{"Idempotency-Key": f"order-{self.mark}-{n:08}"} for n in range(orders)]
            answers = [client.post(ORDERS, json={"items": items}, headers=key) for key in keys]
        assert {answer.status_code for answer in answers} == {201}
        return [answer.json()["id"] for answer in answers]

    def appears_in(self, data: bytes) -> bool:
        """Look for the person's word as it is, in hexadecimal as a dump writes bytes, and in base64."""
        word = f"nry{self.mark}".encode()
        encoded = [base64.b64encode(b"." * n + word)[4:-4] for n in range(3)]
        lowered = data.lower()
        return word in lowered or word.hex().encode() in lowered or any(text in data for text in encoded)


@pytest.fixture(scope="module")
def shop(empty_database: Callable[[], str], tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A shop of the module's own, with its keys in a database of their own, as in a deployment."""
    return make_shop(empty_database, tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def service(shop: Shop) -> Iterator[Service]:
    with shop.serve(COUNTERFOIL_OUTBOX_DIR=str(shop.directory / "outbox")) as running:
        yield running


@contextmanager
def working(shop: Shop) -> Iterator[Path]:
    """Run a worker until the block ends; yields the folder of its mails."""
    outbox = shop.directory / "outbox"
    environment = {**os.environ, **shop.environment, "COUNTERFOIL_OUTBOX_DIR": str(outbox)}
    with (shop.directory / "work.log").open("ab") as log:
        worker = subprocess.Popen(
            [sys.executable, "-m", "counterfoil", "work"], env=environment, stdout=log, stderr=log
        )
        try:
            yield outbox
        finally:
            worker.terminate()
            worker.wait(20)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def admin_token(shop: Shop, make_token: Callable[..., str]) -> str:
    return make_token("admin", database_url=shop.url)


@pytest.fixture(scope="module")
def product_id(service: Service, admin_token: str) -> int:
    with service.client(admin_token) as admin:
        body = {"sku": "GD-1", "name": "Tea", "price": "2.50", "currency": "EUR"}
        made = int(admin.post("/api/v1/products", json=body).json()["id"])
        stock = {"kind": "receipt", "quantity": 1000}
        key = {"Idempotency-Key": "stock-of-the-tests"}
        assert admin.post(f"/api/v1/inventory/{made}/movements", json=stock, headers=key).status_code == 201
    return made


@pytest.fixture
def person(service: Service) -> Person:
    made = Person()
    made.register(service)
    return made


def dump(url: str, *options: str) -> bytes:
    program = find_binaries().bin_dir / "pg_dump"
    return subprocess.run([program, *options, url], capture_output=True, check=True, timeout=120).stdout


def state_of(shop: Shop, user_id: int) -> tuple[Any, ...]:
    """Everything an erasure changes, of one account."""
    [row] = shop.fetch(
        "SELECT u.email IS NULL, u.email_index IS NULL, u.name IS NULL, u.erased_at IS NULL, u.is_active,"
        " p.phone IS NULL,"
        " (SELECT count(*) FROM idempotency_keys k WHERE k.subject_id = u.subject_id OR k.principal = 'user:' || u.id)"
        " FROM users u JOIN profiles p ON p.user_id = u.id WHERE u.id = %s",
        user_id,
    )
    return row


def keys_of(shop: Shop, user_id: int) -> tuple[int, int]:
    """Return how many keys and how many tombstones there are of a person."""
    [(subject,)] = shop.fetch("SELECT subject_id FROM users WHERE id = %s", user_id)
    [row] = shop.fetch(
        "SELECT (SELECT count(*) FROM counterfoil_keys.data_keys WHERE subject = %s),"
        " (SELECT count(*) FROM counterfoil_keys.tombstones WHERE subject = %s)",
        *[subject] * 2,
        keys=True,
    )
    return row[0], row[1]


ERASED = (True, True, True, False, False, True, 0)


# ---------------------------------------------------------------- encryption at rest
def test_no_file_of_the_databases_holds_anything_of_a_person(shop: Shop, service: Service, person: Person) -> None:
    execute = shop.fetch
    [(directory,)] = execute("SHOW data_directory")
    if not Path(directory).is_dir():
        pytest.skip("the server's files are elsewhere")
    execute("CHECKPOINT")
    oids = [execute("SELECT oid FROM pg_database WHERE datname = current_database()", keys=k)[0][0] for k in (0, 1)]
    folders = [Path(directory) / "base" / str(oid) for oid in oids] + [Path(directory) / "pg_wal"]

    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    logs = [Path(directory).parent / "postgres.log", service.log_path]
    found = [path for path in [*files, *logs] if path.exists() and person.appears_in(path.read_bytes())]

    assert len(files) > 100
    assert found == []


def test_a_dump_of_the_data_has_no_key_and_a_dump_of_the_keys_no_data(shop: Shop, person: Person) -> None:
    data, keys = dump(shop.url), dump(shop.keys_url)

    assert b"counterfoil_keys" not in data
    assert b"data_keys" in keys
    assert not person.appears_in(data)
    assert not person.appears_in(keys)
    for line in shop.keys_file.read_text().split():
        assert base64.b64decode(line).hex().encode() not in data + keys


def test_a_ciphertext_that_is_moved_to_somebody_else_does_not_open(
    shop: Shop, service: Service, admin_token: str
) -> None:
    one, other = Person(), Person()
    one.register(service)
    other.register(service)
    shop.fetch("UPDATE users SET name = (SELECT name FROM users WHERE id = %s) WHERE id = %s", one.id, other.id)

    with service.client(admin_token) as admin:
        answer = admin.get(f"{USERS}/{other.id}")

    assert answer.status_code == 500
    assert not one.appears_in(answer.content)
    shop.fetch("UPDATE users SET name = NULL WHERE id = %s", other.id)


# ---------------------------------------------------------------- export
def test_security_GD_03_an_export_is_complete_and_ones_own(
    shop: Shop, service: Service, product_id: int, admin_token: str
) -> None:
    one, other = Person(), Person()
    for each in (one, other):
        each.register(service)
    placed = one.buy(service, product_id, orders=3)
    [foreign] = other.buy(service, product_id, orders=1)
    with service.client(admin_token) as admin:
        admin.get(f"{USERS}/{one.id}")
        send_and_note(admin, placed[0], one)
    key = ("--user", str(one.id), "--name", f"laptop {one.mark}", "--scope", "orders:read", "--days", "30")
    shop.run("create-api-key", *key)

    with service.client(one.token) as client:
        as_json = client.get(f"{USERS}/me/export")
        as_csv = client.get(f"{USERS}/me/export", params={"format": "csv"})
        other_format = client.get(f"{USERS}/me/export", params={"format": "xml"})
    with service.client() as client:
        stranger = client.get(f"{USERS}/me/export")

    assert (as_json.status_code, as_csv.status_code) == (200, 200)
    assert as_json.headers["content-disposition"] == f'attachment; filename="counterfoil-user-{one.id}.json"'
    found = as_json.json()
    assert (found["account"]["email"], found["account"]["name"]) == (one.email, one.name)
    assert found["profile"] == one.profile
    assert [(order["id"], order["total"], len(order["lines"])) for order in found["orders"]] == [
        (order_id, "2.50", 1) for order_id in placed
    ]
    assert [[event["type"] for event in order["events"]] for order in found["orders"][1:]] == [["order.created"]] * 2
    assert [note["body"] for note in found["order_notes"]] == [f"{one.mark} asked for a quick delivery"]
    assert [(each["order_id"], each["tracking_number"]) for each in found["fulfillments"]] == [(placed[0], one.mark)]
    assert [entry["action"] for entry in found["audit"]] == [
        *("user.create", "user.create", "user.update", "user.update", "user.read"),
    ]
    assert "argon2" not in as_json.text
    assert not other.appears_in(as_json.content)
    assert str(foreign) not in [str(order["id"]) for order in found["orders"]]

    assert as_csv.headers["content-type"] == "application/zip"
    tables = read_tables(as_csv.content)
    assert sorted(tables) == sorted(
        f"{name}.csv"
        for name in (
            *("account", "api_keys", "audit", "fulfillments", "holds", "links", "order_adjustments", "order_events"),
            *("order_lines", "order_notes", "orders", "payments", "refunds", "returns", "sign_ins"),
        )
    )
    assert (len(found["sign_ins"]), [link["purpose"] for link in found["links"]]) == (1, ["confirm_email"])
    assert [(key["name"], key["scopes"]) for key in found["api_keys"]] == [(f"laptop {one.mark}", ["orders:read"])]
    # Every personal column is in it, or is one of those that tell nobody anything.
    shown = {f"{table}.{field}" for table, field in fields_of(found)}
    assert {*PERSONAL} - shown == NOT_EXPORTED
    assert tables["api_keys.csv"][0]["name"] == f"laptop {one.mark}"
    assert [row["purpose"] for row in tables["links.csv"]] == ["confirm_email"]
    assert len(tables["sign_ins.csv"]) == 1
    assert tables["account.csv"][0]["email"] == one.email
    assert [row["id"] for row in tables["orders.csv"]] == [str(order_id) for order_id in placed]
    assert [row["quantity"] for row in tables["order_lines.csv"]] == ["1", "1", "1"]
    assert [row["action"] for row in tables["audit.csv"]][-1] == "user.export"
    assert (other_format.status_code, stranger.status_code) == (400, 401)


def send_and_note(admin: httpx.Client, order_id: int, person: Person) -> None:
    """Ship an order of somebody's with a tracking number, and write a note on it."""
    steps: list[tuple[str, dict[str, str]]] = [("confirm", {}), ("fulfillments", {})]
    for path, body in steps:
        answer = admin.post(f"{ORDERS}/{order_id}/{path}", json=body)
        assert answer.is_success, answer.text
    tracking = {"tracking_number": person.mark, "tracking_url": f"https://track.example/{person.mark}"}
    assert admin.post(f"/api/v1/fulfillments/{answer.json()['id']}/ship", json=tracking).status_code == 200
    note = {"text": f"{person.mark} asked for a quick delivery"}
    assert admin.post(f"{ORDERS}/{order_id}/notes", json=note).status_code == 201


@pytest.mark.parametrize("beginning", ["=1+1", "+1", "-1", "@SUM(1)"])
def test_a_cell_of_an_export_is_never_a_formula(service: Service, beginning: str) -> None:
    one = Person()
    one.register(service)
    with service.client(one.token) as client:
        assert client.put(f"{USERS}/me", json={"name": beginning}).status_code == 200

        account = read_tables(client.get(f"{USERS}/me/export", params={"format": "csv"}).content)["account.csv"][0]

    assert account["name"] == f"'{beginning}"


# Hashes, and what the export says in other words.
NOT_EXPORTED = {
    "users.email_index",
    "users.password",
    "sign_ins.address_hash",
    "refresh_tokens.token_hash",
    "one_time_tokens.token_hash",
    *(f"idempotency_keys.{column}" for column in ("response_body", "key", "principal", "fingerprint")),
}
COLUMNS = {"sign_ins.end_reason": "sign_ins.revoke_reason"}


def fields_of(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Name what an export has as the database does."""
    names = {"account": "users", "profile": "profiles", "links": "one_time_tokens"}
    for part, content in found.items():
        rows = content if isinstance(content, list) else [content]
        for field in rows[0] if rows else ():
            table = names.get(part, part)
            table, _, column = COLUMNS.get(f"{table}.{field}", f"{table}.{field}").partition(".")
            yield table, column


def read_tables(packed: bytes) -> dict[str, list[dict[str, str]]]:
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        return {name: list(csv.DictReader(io.StringIO(archive.read(name).decode()))) for name in archive.namelist()}


# ---------------------------------------------------------------- erasure
def test_security_GD_04_an_erased_person_is_nowhere_and_their_sales_are_kept(
    shop: Shop, service: Service, person: Person, product_id: int, admin_token: str
) -> None:
    placed = person.buy(service, product_id, orders=20)
    with service.client(person.token) as client:
        assert {client.delete(f"{ORDERS}/{order_id}").status_code for order_id in placed} == {204}
        draft = client.post(ORDERS, json={"items": [{"product_id": product_id, "quantity": 1}], "draft": True}).json()
    with service.client(admin_token) as admin:
        assert admin.get(f"{USERS}/{person.id}").json()["email"] == person.email
    [(index, sealed)] = shop.fetch("SELECT email_index, email FROM users WHERE id = %s", person.id)
    sales = "SELECT id, total_amount, currency FROM orders WHERE user_id = %s AND id = ANY (%s) ORDER BY id"
    before = shop.fetch(sales, person.id, placed)
    with working(shop) as outbox:
        wait_for(lambda: any(person.appears_in(path.read_bytes()) for path in outbox.glob("*.eml")))
        wait_for(lambda: shop.fetch("SELECT FROM one_time_tokens WHERE next_attempt_at IS NOT NULL") == [])
    old_dump = dump(shop.url)
    assert not person.appears_in(old_dump)
    assert bytes(sealed).hex().encode() in old_dump

    with service.client(person.token) as client:
        erased = client.delete(f"{USERS}/me")

    assert (erased.status_code, erased.content) == (204, b"")
    assert state_of(shop, person.id) == ERASED
    assert keys_of(shop, person.id) == (0, 1)
    [row] = shop.fetch("SELECT password FROM users WHERE id = %s", person.id)
    assert row == ("!",)
    for url in (shop.url, shop.keys_url):
        data = dump(url)
        assert not person.appears_in(data)
        assert bytes(index).hex().encode() not in data
        assert bytes(sealed).hex().encode() not in data
    for path in shop.directory.rglob("*"):
        assert not path.is_file() or not person.appears_in(path.read_bytes()), path
    assert shop.fetch(sales, person.id, placed) == before
    with service.client(admin_token) as admin:
        shown = admin.get(f"{USERS}/{person.id}").json()
        assert (shown["email"], shown["name"], shown["is_active"]) == ("", "", False)
        assert set(shown["profile"].values()) == {""}
        assert admin.get(f"{ORDERS}/{draft['id']}").json()["status"] == "cancelled"
    with service.client() as client:
        assert client.post(TOKEN, json={"email": person.email, "password": PASSWORD}).status_code == 401
    steps = "SELECT changes ->> 'step' FROM audit_entries WHERE action = 'user.erase' AND target_id = %s ORDER BY id"
    assert [step for (step,) in shop.fetch(steps, person.id)] == list(dict.fromkeys(PERSONAL_STEPS))
    report = shop.run("reconcile", check=False)
    assert report.returncode == 0, report.stdout


PERSONAL_STEPS = ("close_account", "forget_answers", "forget_person", "shred_key")


def test_an_address_is_free_again_once_its_owner_is_erased(shop: Shop, service: Service, person: Person) -> None:
    with service.client(person.token) as client:
        assert client.delete(f"{USERS}/me").status_code == 204
        assert client.delete(f"{USERS}/me").status_code in {204, 401}
    first = person.id

    person.key = {"Idempotency-Key": f"registration-{secrets.token_hex(8)}"}
    person.register(service)

    assert person.id != first
    assert keys_of(shop, person.id) == (1, 0)


def test_every_column_that_can_hold_text_is_named_as_personal_or_not(shop: Shop) -> None:
    columns = {
        f"{table}.{column}"
        for table, column in shop.fetch(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
            " AND data_type IN ('text', 'character varying', 'character', 'bytea', 'json', 'jsonb', 'inet', 'xml',"
            " 'ARRAY')"
        )
    }

    assert {*PERSONAL} & {*NOT_PERSONAL} == set()
    assert sorted(columns - {*PERSONAL, *NOT_PERSONAL}) == []
    assert sorted({*PERSONAL, *NOT_PERSONAL} - columns) == []
    assert set(PERSONAL.values()) <= set(PERSONAL_STEPS)


def test_a_mail_that_was_written_to_a_file_is_deleted_after_a_week(shop: Shop) -> None:
    folder = shop.directory / "outbox"
    folder.mkdir(exist_ok=True)
    old, fresh = folder / "confirm-old.eml", folder / "confirm-fresh.eml"
    for path, days in ((old, 8), (fresh, 6)):
        path.write_text("a mail")
        os.utime(path, times=(time.time() - days * 86_400,) * 2)

    with working(shop):
        wait_for(lambda: not old.exists())

    assert fresh.exists()


# ---------------------------------------------------------------- restore
def test_security_GD_05_a_restored_backup_does_not_bring_an_erased_person_back(
    shop: Shop,
    service: Service,
    person: Person,
    product_id: int,
    empty_database: Callable[[], str],
    tmp_path: Path,
) -> None:
    # In the backup it is open; what was erased once does not wait for it again.
    [order_id] = person.buy(service, product_id, orders=1)
    backup = tmp_path / "backup"
    backup.write_bytes(dump(shop.url, "-Fc", "--compress=0"))
    with service.client(person.token) as client:
        assert client.delete(f"{ORDERS}/{order_id}").status_code == 204
        assert client.delete(f"{USERS}/me").status_code == 204
    restored = empty_database()
    restore = find_binaries().bin_dir / "pg_restore"
    subprocess.run([restore, "--dbname", restored, backup], capture_output=True, check=True, timeout=120)
    environment = {**shop.environment, "DATABASE_URL": restored}
    old, shop_url = shop.url, restored

    out = tmp_path / "export.json"
    run_counterfoil("privacy", "export", str(person.id), str(out), **environment)
    brought_back = state_of_database(shop_url, person.id)
    first = run_counterfoil("privacy", "reapply-tombstones", "--json", **environment)
    second = run_counterfoil("privacy", "reapply-tombstones", "--json", **environment)

    assert not person.appears_in(backup.read_bytes())
    # The key was not in the backup: what it holds of the person cannot be read.
    assert '"email": ""' in out.read_text()
    assert not person.appears_in(out.read_bytes())
    assert brought_back == (False, True)
    assert '"people_erased": 1' in first.stdout
    assert '"people_erased": 0' in second.stdout
    assert state_of_database(shop_url, person.id) == (True, False)
    assert state_of_database(old, person.id) == (True, False)


def test_a_restored_database_erases_again_when_it_is_migrated(shop: Shop, service: Service, person: Person) -> None:
    columns = "email, email_index, name, password, is_active"
    [row] = shop.fetch(f"SELECT {columns} FROM users WHERE id = %s", person.id)  # noqa: S608 - fixed text
    with service.client(person.token) as client:
        assert client.delete(f"{USERS}/me").status_code == 204
    # As a backup from before the erasure has it.
    shop.fetch("DELETE FROM erasure_requests WHERE user_id = %s", person.id)
    shop.fetch(
        f"UPDATE users SET ({columns}, erased_at, erasure_requested_at, token_epoch)"  # noqa: S608 - fixed text
        " = (%s, %s, %s, %s, %s, NULL, NULL, 0) WHERE id = %s",
        *row,
        person.id,
    )
    with shop.serve() as fresh:
        with fresh.client() as client:
            signed_in = client.post(TOKEN, json={"email": person.email, "password": PASSWORD})
        with fresh.client(person.token) as client:
            changed = client.put(f"{USERS}/me", json={"name": "Eve"})

    first, second = shop.run("migrate"), shop.run("migrate")

    assert signed_in.status_code == 401
    assert changed.status_code in {401, 404}, changed.text
    assert "1 people erased again" in first.stdout
    assert "erased again" not in second.stdout
    assert state_of(shop, person.id)[:5] == ERASED[:5]


def state_of_database(url: str, user_id: int) -> tuple[Any, ...] | None:
    with psycopg.connect(url) as connection:
        return connection.execute(
            "SELECT email IS NULL AND email_index IS NULL AND name IS NULL, is_active FROM users WHERE id = %s",
            [user_id],
        ).fetchone()


def test_a_restored_key_store_does_not_open_an_erased_person(shop: Shop, service: Service, person: Person) -> None:
    [(subject,)] = shop.fetch("SELECT subject_id FROM users WHERE id = %s", person.id)
    columns = "subject, wrapped, created_at, master_key"
    [kept] = shop.fetch(f"SELECT {columns} FROM counterfoil_keys.data_keys WHERE subject = %s", subject, keys=True)  # noqa: S608 - fixed text
    with service.client(person.token) as client:
        assert client.delete(f"{USERS}/me").status_code == 204
    shop.fetch("DELETE FROM counterfoil_keys.tombstones WHERE subject = %s", subject, keys=True)
    shop.fetch(f"INSERT INTO counterfoil_keys.data_keys ({columns}) VALUES (%s, %s, %s, %s)", *kept, keys=True)  # noqa: S608 - fixed text

    done = shop.run("privacy", "reapply-tombstones", "--json")

    assert '"keys_deleted": 1' in done.stdout
    assert keys_of(shop, person.id) == (0, 1)


# ---------------------------------------------------------------- deferral
def test_security_GD_06_an_open_order_defers_an_erasure_with_a_reason(
    shop: Shop, service: Service, person: Person, product_id: int
) -> None:
    [order_id] = person.buy(service, product_id, orders=1)
    before = state_of(shop, person.id)

    with service.client(person.token) as client:
        answers = [client.delete(f"{USERS}/me") for _ in range(2)]

        assert [answer.status_code for answer in answers] == [202, 202]
        assert answers[0].json() == answers[1].json()
        assert answers[0].json()["state"] == "deferred"
        assert answers[0].json()["reason"] == f"These orders are not finished: {order_id} (created)."
        assert state_of(shop, person.id) == before
        assert keys_of(shop, person.id) == (1, 0)
        assert client.get(f"{ORDERS}/{order_id}").json()["status"] == "created"
        assert f" {order_id} (created)" in " ".join(shop.run("privacy", "status", "--json").stdout.split())
        assert client.delete(f"{ORDERS}/{order_id}").status_code == 204
        assert [client.delete(f"{USERS}/me").status_code] == [204]

    assert state_of(shop, person.id) == ERASED
    assert keys_of(shop, person.id) == (0, 1)


def test_the_terminal_erases_by_address_and_says_what_it_waits_for(
    shop: Shop, service: Service, person: Person, product_id: int
) -> None:
    [order_id] = person.buy(service, product_id, orders=1)

    waiting = shop.run("privacy", "erase", person.email)
    with service.client(person.token) as client:
        assert client.delete(f"{ORDERS}/{order_id}").status_code == 204
    done = shop.run("privacy", "erase", str(person.id), "--json")
    unknown = [shop.run("privacy", "erase", who, check=False) for who in (person.email, "999999999", "nobody")]

    assert f"These orders are not finished: {order_id} (created)." in " ".join(waiting.stderr.split())
    assert '"state": "completed"' in done.stdout
    assert state_of(shop, person.id) == ERASED
    assert [result.returncode for result in unknown] == [1, 1, 1]
    assert all(re.fullmatch(r"Error: .*\n", result.stderr) for result in unknown)


def test_the_terminal_reads_an_address_from_its_input_and_records_a_reason(
    shop: Shop, person: Person, tmp_path: Path
) -> None:
    shop.run("privacy", "export", str(person.id), str(tmp_path / "one.json"), "--reason", "letter-431")
    erased = subprocess.run(
        [sys.executable, "-m", "counterfoil", "privacy", "erase", "-", "--reason", "letter-432"],
        env={**os.environ, **shop.environment},
        input=f"{person.email}\n",
        text=True,
        capture_output=True,
        check=False,
        timeout=60,
    )

    assert erased.returncode == 0, erased.stderr
    assert state_of(shop, person.id) == ERASED
    reasons = "SELECT DISTINCT action, reason FROM audit_entries WHERE target_id = %s AND reason <> '' ORDER BY 1"
    assert {*shop.fetch(reasons, person.id)} >= {
        ("erasure.request", "letter-432"),
        ("user.erase", "letter-432"),
        ("user.export", "letter-431"),
    }


def test_the_last_administrator_stays(
    empty_database: Callable[[], str], make_token: Callable[..., str], tmp_path: Path
) -> None:
    shop = make_shop(empty_database, tmp_path)
    tokens = [make_token("admin", database_url=shop.url) for _ in range(2)]
    admins = [row[0] for row in shop.fetch("SELECT id FROM users ORDER BY id")]
    start = Barrier(2)
    with shop.serve() as service:

        def leave(token: str) -> int:
            with service.client(token) as client:
                start.wait(10)
                return int(client.delete(f"{USERS}/me").status_code)

        with ThreadPoolExecutor(2) as pool:
            statuses = sorted(pool.map(leave, tokens))
        [(last,)] = shop.fetch("SELECT id FROM users WHERE role = 'admin' AND is_active")
        with service.client(tokens[admins.index(last)]) as client:
            refused = [
                client.delete(f"{USERS}/me"),
                client.put(f"{USERS}/{last}", json={"is_active": False}),
                client.put(f"{USERS}/{last}", json={"role": "customer"}),
            ]
            kept = client.put(f"{USERS}/{last}", json={"role": "admin"})

    assert statuses == [204, 409]
    assert [(a.status_code, a.json()["error"]["code"]) for a in refused] == [(409, "LAST_ADMINISTRATOR")] * 3
    assert kept.status_code == 200
    assert shop.fetch("SELECT role, is_active FROM users WHERE id = %s", last) == [("admin", True)]


def test_a_replay_that_shows_somebodys_data_to_staff_leaves_an_entry(
    shop: Shop, service: Service, admin_token: str
) -> None:
    body = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": PASSWORD}
    key = {"Idempotency-Key": f"by-staff-{secrets.token_hex(8)}"}

    with service.client(admin_token) as admin:
        first, again = (admin.post(USERS, json=body, headers=key) for _ in range(2))

    assert (again.content, again.headers["idempotent-replayed"]) == (first.content, "true")
    read = "SELECT count(*) FROM audit_entries WHERE action = 'user.read' AND target_id = %s"
    assert shop.fetch(read, first.json()["id"]) == [(1,)]


def test_keys_without_an_account_are_swept_when_asked(shop: Shop, person: Person) -> None:
    shop.fetch("UPDATE counterfoil_keys.data_keys SET created_at = now() - interval '2 days'", keys=True)
    shop.fetch(
        "INSERT INTO counterfoil_keys.data_keys (subject, wrapped, master_key, created_at)"
        " SELECT gen_random_uuid(), 'x', id, now() - n * interval '20 hours' FROM counterfoil_keys.master_keys,"
        " generate_series(0, 2) AS n LIMIT 3",
        keys=True,
    )

    counted = shop.run("keys", "sweep", "--json").stdout
    swept = shop.run("keys", "sweep", "--delete", "--json").stdout

    assert '"orphans": 1,' in counted
    assert '"deleted": 1' in swept
    assert keys_of(shop, person.id) == (1, 0)
    shop.fetch("DELETE FROM counterfoil_keys.data_keys WHERE wrapped = 'x'", keys=True)


def test_the_master_keys_are_nobody_elses_to_read(shop: Shop) -> None:
    assert shop.keys_file.stat().st_mode & 0o077 == 0


def test_a_store_that_is_away_is_503_and_orders_go_on(
    shop: Shop, service: Service, person: Person, product_id: int, postgres_url: str
) -> None:
    name = shop.keys_url.rpartition("/")[2]
    body = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Eve", "password": PASSWORD}
    before = state_of(shop, person.id), shop.fetch("SELECT count(*) FROM users")
    with psycopg.connect(postgres_url, autocommit=True) as connection, service.client(person.token) as client:
        rename = 'ALTER DATABASE "{}" RENAME TO "{}"'
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        connection.execute(rename.format(name, f"{name}_away"))
        try:
            away = [client.get(f"{USERS}/me"), client.post(USERS, json=body), client.delete(f"{USERS}/me")]
            [order_id] = person.buy(service, product_id, orders=1)
            shown = client.get(f"{ORDERS}/{order_id}")
        finally:
            connection.execute(rename.format(f"{name}_away", name))
        back = client.get(f"{USERS}/me")
        assert client.delete(f"{ORDERS}/{order_id}").status_code == 204

    assert [(a.status_code, a.json()["error"]["code"], a.headers["retry-after"]) for a in away] == [
        (503, "KEY_STORE_UNAVAILABLE", "1")
    ] * 3
    assert shown.status_code == 200
    assert (back.status_code, back.json()["email"]) == (200, person.email)
    assert (state_of(shop, person.id)[:6], shop.fetch("SELECT count(*) FROM users")) == (before[0][:6], before[1])
