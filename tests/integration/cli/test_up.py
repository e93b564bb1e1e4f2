"""`counterfoil up` as a user runs it: start, order, pull the plug, start again, stop."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from conftest import free_port

START_SECONDS_MAX = 90
ENDING_SECONDS_MAX = 20


def clean_environment() -> dict[str, str]:
    """A user's environment: none of the variables that the other tests need."""
    ours = ("COUNTERFOIL_", "DATABASE_URL", "TEST_DATABASE_URL", "DJANGO_SETTINGS_MODULE")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    data: Path
    output: Path
    info: dict[str, str]
    seconds: float

    def command_line(self) -> str:
        """What the user copies: from `curl` to the end of its last line."""
        text = self.output.read_text()
        return text[text.index("curl ") : text.index("}'") + 2]

    def family(self) -> set[int]:
        """The process and everything it has started, however deep."""
        found, queue = set(), [self.process.pid]
        while queue:
            pid = queue.pop()
            found.add(pid)
            queue += [child for child, parent in parents().items() if parent == pid and child not in found]
        return found


def parents() -> dict[int, int]:
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        state, parent = text.rpartition(")")[2].split()[:2]
        if state != "Z":  # ended, and only its parent has not looked yet
            found[int(path.parent.name)] = int(parent)
    return found


def wait_until_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + ENDING_SECONDS_MAX
    while left := pids & parents().keys():
        assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_text() for pid in left]
        time.sleep(0.1)


@contextmanager
def up(data: Path, *, port: int | None = None) -> Iterator[Running]:
    """Run `counterfoil up` until the block ends; it is then stopped, if it still runs, and nothing is left."""
    output, info = data.parent / f"{data.name}.out", data.parent / f"{data.name}.json"
    info.unlink(missing_ok=True)
    arguments = ["up", "--port", str(port or free_port()), "--data", str(data), "--json", str(info)]
    started = time.monotonic()
    with output.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "counterfoil", *arguments],
            env=clean_environment(),
            cwd=data.parent,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        while "Stop with Ctrl-C" not in output.read_text():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < started + START_SECONDS_MAX, output.read_text()
            time.sleep(0.05)
        yield Running(process, data, output, json.loads(info.read_text()), time.monotonic() - started)
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)


def run_up(data: Path, port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "counterfoil", "up", "--port", str(port), "--data", str(data)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def get(running: Running, path: str, token: str) -> Any:
    answer = httpx.get(running.info["api_url"] + path, headers={"Authorization": f"Bearer {running.info[token]}"})
    assert answer.status_code == 200, answer.text
    return answer.json()


def paste(running: Running) -> dict[str, Any]:
    """Run the printed command in a shell."""
    answer = subprocess.run(["bash", "-c", running.command_line()], capture_output=True, text=True, check=True)
    order: dict[str, Any] = json.loads(answer.stdout)
    return order


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One that runs while the others are tried."""
    with up(tmp_path_factory.mktemp("first") / "data") as running:
        yield running


def test_the_keys_are_apart_from_the_data_that_they_open(first: Running) -> None:
    file = Path(first.info["master_keys_file"])

    assert file == first.data.resolve() / "master.keys"
    assert file.stat().st_mode & 0o777 == 0o600
    assert first.info["keys_url"] == first.info["database_url"].rpartition("/")[0] + "/counterfoil_keys"
    with psycopg.connect(first.info["keys_url"]) as keys, psycopg.connect(first.info["database_url"]) as data:
        assert keys.execute("SELECT count(*) FROM counterfoil_keys.data_keys").fetchone() == (7,)
        assert data.execute("SELECT to_regnamespace('counterfoil_keys')").fetchone() == (None,)


def test_it_says_where_everything_is_and_the_printed_command_places_an_order(first: Running) -> None:
    order = paste(first)

    assert (order["status"], order["items"][0]["quantity"]) == ("created", 2)
    assert set(first.info) == {
        "api_url",
        "docs_url",
        "console_url",
        "database_url",
        "admin_token",
        "customer_token",
        "keys_url",
        "master_keys_file",
    }
    for name in ("docs_url", "console_url"):
        assert httpx.get(first.info[name], follow_redirects=True).status_code == 200
    assert get(first, f"/orders/{order['id']}", "customer_token") == order
    assert len(get(first, "/products", "customer_token")["items"]) > 1
    for path in ("secret", "service.json", "logins.json"):
        assert (first.data / path).stat().st_mode & 0o077 == 0, path
    assert json.loads((first.data / "service.json").read_text()) == first.info


def test_every_login_that_is_kept_opens_the_api(first: Running) -> None:
    logins = json.loads((first.data / "logins.json").read_text())

    for email, password in logins.items():
        answer = httpx.post(first.info["api_url"] + "/auth/token", json={"email": email, "password": password})
        assert answer.status_code == 200, (email, answer.text)


def test_security_AU_03_its_processes_have_a_login_that_owns_nothing_and_taking_the_role_off_gains_nothing(
    first: Running,
) -> None:
    with psycopg.connect(first.info["database_url"], autocommit=True) as owner:
        logins = owner.execute(
            "SELECT DISTINCT usename FROM pg_stat_activity WHERE application_name = 'counterfoil'"
        ).fetchall()
        owner.execute("SET SESSION AUTHORIZATION counterfoil_app_login")
        for statement in ("DELETE FROM audit_entries", "TRUNCATE audit_seals", "SET ROLE counterfoil_placement"):
            for role in ("SET ROLE counterfoil_app", "RESET ROLE"):
                owner.execute(role.encode())
                with pytest.raises(psycopg.errors.InsufficientPrivilege):
                    owner.execute(statement.encode())

    assert logins == [("counterfoil_app_login",)]


def test_its_trail_is_chained_anchored_and_verified_without_any_setting(first: Running) -> None:
    deadline = time.monotonic() + 30
    while not list((first.data / "anchors").glob("anchor-*.json")):
        assert time.monotonic() < deadline, (first.data / "logs" / "work.log").read_text()
        time.sleep(0.1)

    verified = subprocess.run(
        [sys.executable, "-m", "counterfoil", "audit", "verify", "--json", "--data", str(first.data)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert verified.returncode == 0, verified.stderr
    verdict = json.loads(verified.stdout)
    assert (verdict["ok"], verdict["first_bad"], verdict["anchors"]) == (True, None, 1)
    assert verdict["entries"] > 200


def test_its_payments_are_compared_with_its_own_sandbox(first: Running) -> None:
    order = paste(first)
    paid = httpx.post(
        f"{first.info['api_url']}/orders/{order['id']}/payments",
        json={"method": "pm_card_visa"},
        headers={
            "Authorization": f"Bearer {first.info['customer_token']}",
            "Idempotency-Key": f"pays-{order['id']:012}",
        },
    )
    assert paid.status_code == 201, paid.text

    compared = subprocess.run(
        [sys.executable, "-m", "counterfoil", "reconcile-gateway", "--json", "-", "--data", str(first.data)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert compared.returncode == 0, compared.stdout + compared.stderr
    report = json.loads(compared.stdout)
    assert (report["gateways"][0]["payments"], report["findings"]) == (1, [])


def test_a_taken_port_is_one_clear_sentence(first: Running, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = run_up(tmp_path / "data", port)

    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert f"Port {port} cannot be used (Address already in use); stop what uses it, or choose" in refused.stderr
    assert not (tmp_path / "data").exists()
    assert first.process.poll() is None


def test_a_second_one_on_the_same_data_is_one_clear_sentence(first: Running) -> None:
    refused = run_up(first.data, free_port())

    assert refused.returncode == 1
    assert f"Another counterfoil (pid {first.process.pid}) uses {first.data}; stop it or pass --data." in refused.stderr
    assert "Traceback" not in refused.stderr
    assert get(first, "/users/me", "customer_token")["role"] == "customer"
    assert json.loads((first.data / "service.json").read_text()) == first.info


def test_a_folder_that_cannot_be_written_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")

    refused = run_up(tmp_path / "file" / "data", free_port())

    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert f"Cannot use {tmp_path / 'file' / 'data'}: Not a directory" in refused.stderr
    assert "--data" in refused.stderr


def test_two_run_side_by_side_and_ctrl_c_stops_one_completely(first: Running, tmp_path: Path) -> None:
    with up(tmp_path / "data") as second:
        assert paste(second)["id"] != 0
        assert second.info["database_url"] != first.info["database_url"]
        family = second.family()
        assert len(family) >= 5  # up, web, its worker, work, PostgreSQL

        second.process.send_signal(signal.SIGINT)

        assert second.process.wait(60) == 0, second.output.read_text()
        wait_until_gone(family)
        assert not (second.data / "service.json").exists()
        assert "Stopped; the data is kept in" in second.output.read_text()
    assert get(first, "/users/me", "customer_token")["role"] == "customer"


def test_an_order_outlives_kill_minus_nine(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    with up(tmp_path / "data") as running:
        order = paste(running)
        product = order["items"][0]["product_id"]
        level = get(running, f"/inventory/{product}", "admin_token")
        family = running.family()

        running.process.kill()

        running.process.wait()
        wait_until_gone(family)
        assert (tmp_path / "data" / "service.json").exists()  # nobody was left to remove it

    with up(tmp_path / "data") as again:
        record_property("second start in seconds", round(again.seconds, 1))
        print(f"second start: {again.seconds:.1f} s, the first: {running.seconds:.1f} s")
        assert get(again, f"/orders/{order['id']}", "customer_token") == order
        assert get(again, f"/inventory/{product}", "admin_token") == level
        report = subprocess.run(
            [sys.executable, "-m", "counterfoil", "reconcile", "--data", str(again.data)],
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert report.returncode == 0, report.stdout + report.stderr
        assert paste(again)["id"] > order["id"]
