"""Mails with links that work once: confirming an address and choosing a new password (issue 3, item 1)."""

from __future__ import annotations

import os
import re
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, cast

import httpx
import psycopg
import pytest
from accounts import AUTH, NEW_PASSWORD, SECONDS_MAX, USERS, refused, register, seconds_until, sign_in

from conftest import Service, free_port, run_counterfoil

Unchanged = Callable[[], AbstractContextManager[None]]
Connection = psycopg.Connection[tuple[Any, ...]]
SHOP = "https://shop.example.com"


@contextmanager
def running_worker(service: Service, directory: Path, **environment: str) -> Iterator[Path]:
    """Run `counterfoil work` until the block ends; yields the folder its mails are written to."""
    outbox = directory / "outbox"
    variables = {
        **os.environ,
        "DATABASE_URL": service.database_url,
        "COUNTERFOIL_OUTBOX_DIR": str(outbox),
        "COUNTERFOIL_PUBLIC_URL": SHOP,
        **environment,
    }
    with (directory / "work.log").open("ab") as log:
        worker = subprocess.Popen([sys.executable, "-m", "counterfoil", "work"], env=variables, stdout=log, stderr=log)
        try:
            yield outbox
        finally:
            worker.terminate()
            worker.wait(20)


def wait_for(condition: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if found := condition():
            return found
        time.sleep(0.05)
    return pytest.fail("it never came true")


def mails_to(outbox: Path, address: str, kind: str) -> list[EmailMessage]:
    found = []
    for path in sorted(outbox.glob(f"{kind}-*.eml")):
        mail = cast("EmailMessage", message_from_bytes(path.read_bytes(), policy=policy.default))
        if mail["To"] == address:
            found.append(mail)
    return found


def text_of(mail: EmailMessage, kind: str = "plain") -> str:
    part = mail.get_body((kind,))
    assert part is not None
    return str(part.get_content())


def token_of(mail: EmailMessage) -> str:
    found = re.search(rf"{re.escape(SHOP)}/[a-z-]+#token=(cft_[A-Za-z0-9_-]{{43}})\s", text_of(mail))
    assert found is not None, text_of(mail)
    return found[1]


def receive(outbox: Path, address: str, kind: str) -> EmailMessage:
    [mail] = wait_for(lambda: mails_to(outbox, address, kind))
    return cast("EmailMessage", mail)


@pytest.fixture
def outbox(service: Service, tmp_path: Path) -> Iterator[Path]:
    with running_worker(service, tmp_path) as folder:
        yield folder


def ask_for_reset(client: httpx.Client, address: str) -> httpx.Response:
    return client.post(f"{AUTH}/password-reset", json={"email": address})


def reset(client: httpx.Client, token: str, password: str = NEW_PASSWORD) -> httpx.Response:
    return client.post(f"{AUTH}/password-reset/confirm", json={"token": token, "password": password})


def confirm(client: httpx.Client, token: str) -> httpx.Response:
    return client.post(f"{AUTH}/email-confirmation", json={"token": token})


def assert_unusable(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "ONE_TIME_TOKEN_INVALID"), answer.text


# ---------------------------------------------------------------- confirmation
def test_who_registers_gets_a_mail_and_confirms_once(
    anonymous: httpx.Client, admin: httpx.Client, outbox: Path, db: Connection
) -> None:
    account = register(anonymous, name='<b>Ada</b> "Countess"')
    mail = receive(outbox, account["email"], "confirm")
    token = token_of(mail)

    answers = [confirm(anonymous, token) for _ in range(2)]

    assert account["email_confirmed_at"] is None
    assert (answers[0].status_code, answers[0].content) == (204, b"")
    assert_unusable(answers[1])
    assert admin.get(f"{USERS}/{account['id']}").json()["email_confirmed_at"] is not None
    row = db.execute("SELECT id, sent_at FROM one_time_tokens WHERE user_id = %s", [account["id"]]).fetchone()
    assert row is not None
    assert mail["Message-ID"] == f"<confirm-{row[0].hex}@shop.example.com>"
    assert mail["Subject"] == "Confirm your e-mail address"
    # Whoever registers chooses the name, and anybody may be the one who reads the mail.
    assert text_of(mail).startswith("Hello,")
    assert [part for part in ("plain", "html") if "Ada" in text_of(mail, part)] == []
    assert token in text_of(mail, "html")


def test_asking_again_ends_the_older_link(anonymous: httpx.Client, outbox: Path) -> None:
    account = register(anonymous)
    older = token_of(receive(outbox, account["email"], "confirm"))

    asked = anonymous.post(f"{AUTH}/email-confirmation/resend", json={"email": account["email"].upper()})
    mails = wait_for(lambda: len(m := mails_to(outbox, account["email"], "confirm")) == 2 and m)
    [newer] = {token_of(mail) for mail in mails} - {older}

    assert (asked.status_code, asked.content) == (202, b"")
    assert_unusable(confirm(anonymous, older))
    assert confirm(anonymous, newer).status_code == 204


def test_a_wish_that_was_overtaken_before_it_was_sent_is_not_sent(
    anonymous: httpx.Client, service: Service, tmp_path: Path, db: Connection
) -> None:
    account = register(anonymous)
    for _ in range(3):
        anonymous.post(f"{AUTH}/email-confirmation/resend", json={"email": account["email"]})

    with running_worker(service, tmp_path) as outbox:
        mail = receive(outbox, account["email"], "confirm")
        wait_for(lambda: not due(db, account["id"]))
        sent = mails_to(outbox, account["email"], "confirm")

    assert len(sent) == 1
    assert confirm(anonymous, token_of(mail)).status_code == 204


def due(db: Connection, user_id: int) -> list[Any]:
    return db.execute(
        "SELECT id FROM one_time_tokens WHERE user_id = %s AND next_attempt_at IS NOT NULL", [user_id]
    ).fetchall()


# ---------------------------------------------------------------- password reset
def test_a_forgotten_password_is_replaced_and_every_session_ends(
    anonymous: httpx.Client, outbox: Path, db: Connection
) -> None:
    account = register(anonymous)
    tokens = sign_in(anonymous, account)
    asked = ask_for_reset(anonymous, account["email"])
    token = token_of(receive(outbox, account["email"], "reset"))

    answer = reset(anonymous, token)
    took = seconds_until(lambda: refused(anonymous, tokens["access_token"]))

    assert (asked.status_code, asked.content, answer.status_code) == (202, b"", 204)
    assert took < SECONDS_MAX
    refreshed = anonymous.post(f"{AUTH}/refresh", json={"refresh_token": tokens["refresh_token"]})
    assert refreshed.status_code == 401
    old = anonymous.post(f"{AUTH}/token", json={"email": account["email"], "password": account["password"]})
    assert old.status_code == 401
    assert sign_in(anonymous, {**account, "password": NEW_PASSWORD})["token_type"] == "Bearer"
    assert_unusable(reset(anonymous, token, "yet another horse battery"))
    audited = db.execute(
        "SELECT actor FROM audit_entries WHERE action = 'user.reset_password' AND target_id = %s", [account["id"]]
    ).fetchall()
    assert audited == [(f"user:{account['id']}",)]


def test_of_20_concurrent_uses_of_a_link_one_wins(anonymous: httpx.Client, service: Service, outbox: Path) -> None:
    account = register(anonymous)
    ask_for_reset(anonymous, account["email"])
    token = token_of(receive(outbox, account["email"], "reset"))
    line = threading.Barrier(20)

    def use(number: int) -> int:
        with service.client() as client:
            client.get("/livez")
            line.wait(20)
            return reset(client, token, f"horse battery number {number}").status_code

    with ThreadPoolExecutor(20) as pool:
        statuses = list(pool.map(use, range(20)))

    # 503: more want to hash at once than may. They have used nothing.
    assert statuses.count(204) == 1
    assert set(statuses) <= {204, 400, 503}
    wins = statuses.index(204)
    assert sign_in(anonymous, {**account, "password": f"horse battery number {wins}"})["token_type"] == "Bearer"


def test_a_weak_password_leaves_the_link_usable(
    anonymous: httpx.Client, outbox: Path, nothing_written: Unchanged
) -> None:
    account = register(anonymous)
    ask_for_reset(anonymous, account["email"])
    token = token_of(receive(outbox, account["email"], "reset"))

    with nothing_written():
        weak = reset(anonymous, token, "password1234")

    assert weak.status_code == 400
    assert [found["field"] for found in weak.json()["error"]["details"]["fields"]] == ["password"]
    assert reset(anonymous, token).status_code == 204


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE one_time_tokens SET expires_at = now() WHERE user_id = %s",
        "UPDATE users SET is_active = false WHERE id = %s",
    ],
    ids=["expired", "account inactive"],
)
def test_a_link_ends_with_its_time_and_its_account(
    anonymous: httpx.Client, outbox: Path, db: Connection, nothing_written: Unchanged, statement: str
) -> None:
    account = register(anonymous)
    ask_for_reset(anonymous, account["email"])
    token = token_of(receive(outbox, account["email"], "reset"))
    db.execute(statement, [account["id"]])

    with nothing_written():
        assert_unusable(reset(anonymous, token))


def test_a_link_for_one_thing_does_not_do_another(
    anonymous: httpx.Client, outbox: Path, nothing_written: Unchanged
) -> None:
    account = register(anonymous)
    ask_for_reset(anonymous, account["email"])
    to_confirm = token_of(receive(outbox, account["email"], "confirm"))
    to_reset = token_of(receive(outbox, account["email"], "reset"))

    with nothing_written():
        assert_unusable(reset(anonymous, to_confirm))
        assert_unusable(confirm(anonymous, to_reset))


def test_nobody_learns_whether_an_address_has_an_account(anonymous: httpx.Client, outbox: Path, db: Connection) -> None:
    account = register(anonymous)
    receive(outbox, account["email"], "confirm")
    addresses = [account["email"], "nobody@example.com", "no.address@x"]

    answers = [
        anonymous.post(f"{AUTH}/{route}", json={"email": address})
        for route in ("password-reset", "email-confirmation/resend")
        for address in addresses
    ]

    assert {(answer.status_code, answer.content, answer.headers.get("content-type")) for answer in answers} == {
        (answers[0].status_code, answers[0].content, answers[0].headers.get("content-type"))
    }
    assert answers[0].status_code == 202
    receive(outbox, account["email"], "reset")
    assert [mail.name for mail in outbox.glob("reset-*")] != []
    wait_for(lambda: db.execute("SELECT count(*) FROM one_time_tokens WHERE user_id IS NULL").fetchone() == (0,))
    assert mails_to(outbox, "nobody@example.com", "reset") == []


def test_nobody_fills_somebody_elses_mailbox_and_the_last_link_goes_on_working(
    anonymous: httpx.Client, outbox: Path, db: Connection
) -> None:
    account = register(anonymous)
    seen: list[str] = []

    for _ in range(7):
        ask_for_reset(anonymous, account["email"])
        wait_for(lambda: not due(db, account["id"]))
        tokens = {token_of(mail) for mail in mails_to(outbox, account["email"], "reset")}
        seen += tokens - set(seen)

    assert len(seen) == 5
    assert_unusable(reset(anonymous, seen[0]))
    assert reset(anonymous, seen[-1]).status_code == 204


def test_only_the_hash_of_a_link_is_stored(anonymous: httpx.Client, outbox: Path, db: Connection) -> None:
    account = register(anonymous)
    token = token_of(receive(outbox, account["email"], "confirm"))

    rows = db.execute("SELECT t::text FROM one_time_tokens t WHERE user_id = %s", [account["id"]]).fetchall()

    assert len(rows) == 1
    assert token not in rows[0][0]
    assert token.removeprefix("cft_") not in rows[0][0]


# ---------------------------------------------------------------- the mail server
class _MailServer(socketserver.ThreadingTCPServer):
    """As much of SMTP as a mail needs; keeps what it was sent."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), _MailSession)
        self.mails: list[bytes] = []


class _MailSession(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.wfile.write(b"220 mail\r\n")
        while line := self.rfile.readline():
            word = line[:4].upper()
            if word == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                mail = b"".join(iter(self.rfile.readline, b".\r\n"))
                cast("_MailServer", self.server).mails.append(mail)
            self.wfile.write(b"221 bye\r\n" if word == b"QUIT" else b"250 ok\r\n")
            if word == b"QUIT":
                return


def test_a_mail_waits_for_a_mail_server_that_is_away_and_is_then_sent_once(
    anonymous: httpx.Client, service: Service, tmp_path: Path, db: Connection
) -> None:
    port = free_port()
    account = register(anonymous)
    waiting = "SELECT attempts, next_attempt_at > now() + interval '20 s', sent_at FROM one_time_tokens"
    with running_worker(service, tmp_path, COUNTERFOIL_MAIL_URL=f"smtp://127.0.0.1:{port}?tls=off"):
        # The claim's lease is longer than the first pause, which is under 90 s.
        wait_for(lambda: "mail.postponed" in (tmp_path / "work.log").read_text())
        row = db.execute(f"{waiting} WHERE user_id = %s", [account["id"]]).fetchone()
        assert row == (1, True, None)

        with _MailServer(port) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            db.execute("UPDATE one_time_tokens SET next_attempt_at = now() WHERE user_id = %s", [account["id"]])
            wait_for(lambda: not due(db, account["id"]))
            server.shutdown()
            mails = [message_from_bytes(mail, policy=policy.default) for mail in server.mails]

    [mail] = [mail for mail in mails if mail["To"] == account["email"]]
    assert confirm(anonymous, token_of(cast("EmailMessage", mail))).status_code == 204
    log = (tmp_path / "work.log").read_text()
    assert account["email"] not in log
    assert ("mail.written" in log, "mail.sent" in log) == (False, True)


def test_a_mail_that_is_sent_twice_is_the_same_mail(
    anonymous: httpx.Client, service: Service, tmp_path: Path, db: Connection
) -> None:
    account = register(anonymous)
    with running_worker(service, tmp_path) as outbox:
        first = receive(outbox, account["email"], "confirm")
        wait_for(lambda: not due(db, account["id"]))
        [path] = [path for path in outbox.iterdir() if account["email"].encode() in path.read_bytes()]
        path.unlink()

        # As after a crash between sending and noting it.
        db.execute(
            "UPDATE one_time_tokens SET sent_at = NULL, next_attempt_at = now() WHERE user_id = %s", [account["id"]]
        )
        second = receive(outbox, account["email"], "confirm")

    log = (tmp_path / "work.log").read_text()
    assert ("mail.written" in log, "mail.sent" in log) == (True, False)
    assert second["Message-ID"] == first["Message-ID"]
    assert token_of(second) == token_of(first)
    assert confirm(anonymous, token_of(first)).status_code == 204


@pytest.mark.parametrize("url", ["http://127.0.0.1:25", "127.0.0.1:25", "smtp://"])
def test_a_mail_server_that_cannot_be_read_stops_the_start(url: str) -> None:
    stopped = run_counterfoil("work", check=False, DATABASE_URL="postgresql://127.0.0.1:1/x", COUNTERFOIL_MAIL_URL=url)

    assert stopped.returncode == 1
    assert "COUNTERFOIL_MAIL_URL: must look like smtp://" in " ".join(stopped.stderr.split())
