"""`counterfoil doctor`, `--help`, and settings that are not right."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import run_counterfoil

COMMANDS = (
    *("up", "serve", "work", "migrate", "load-demo", "bench", "replay", "reconcile", "audit", "doctor"),
    *("create-api-key", "keys", "privacy"),
)
CHECKED = ("Python", "Settings", "Master keys", "PostgreSQL programs", "Data directory")


def findings_of(text: str) -> dict[str, dict[str, Any]]:
    return {finding["name"].strip(): finding for finding in json.loads(text)["findings"]}


def test_a_healthy_installation_is_told_as_such(database_url: str, tmp_path: Path) -> None:
    result = run_counterfoil("doctor", "--json", "-", "--data", str(tmp_path), DATABASE_URL=database_url)

    found = findings_of(result.stdout)
    assert result.returncode == 0
    assert {name: found[name]["state"] for name in CHECKED} == {
        "Python": "ok",
        "Settings": "ok",
        "Master keys": "ok",
        "PostgreSQL programs": "ok",
        "Data directory": "ok",
    }
    assert found["schema"]["found"].startswith("up to date (")
    assert {name: found[name]["found"] for name in ("fsync", "full_page_writes", "synchronous_commit")} == {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
    }


def test_without_a_service_it_says_what_to_do(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        file = tmp_path / "findings.json"
        result = run_counterfoil(
            "doctor",
            "--data",
            str(tmp_path),
            "--port",
            port,
            "--json",
            str(file),
            DATABASE_URL="",
            COUNTERFOIL_SECRET="",
        )

    found = findings_of(file.read_text())
    assert result.returncode == 0, result.stdout
    assert (found["Database"]["state"], found["Database"]["next_step"]) == ("note", "`make up` starts its own.")
    assert (found["Settings"]["state"], found["Settings"]["found"]) == ("note", "COUNTERFOIL_SECRET is not set")
    assert found[f"Port {port}"]["state"] == "note"
    assert "What to do" in result.stdout


def test_the_doctor_looks_at_the_master_keys(database_url: str, tmp_path: Path) -> None:
    path = tmp_path / "master.keys"

    def look(name: str) -> tuple[int, dict[str, Any]]:
        result = run_counterfoil(
            *("doctor", "--json", "-", "--data", str(tmp_path)),
            check=False,
            DATABASE_URL=database_url,
            COUNTERFOIL_MASTER_KEYS_FILE=name,
        )
        return result.returncode, findings_of(result.stdout)["Master keys"]

    unset, missing = look(""), look(str(path))

    assert (unset[0], unset[1]["state"]) == (0, "note")
    assert (missing[0], missing[1]["state"]) == (1, "wrong")


def test_wrong_settings_are_each_named_in_one_sentence() -> None:
    wrong = {
        "DATABASE_URL": "mysql://shop@127.0.0.1/shop",
        "COUNTERFOIL_SECRET": "short",
        "COUNTERFOIL_PORT": "eighty",
        "COUNTERFOIL_BATCH_ORDERS_MAX": "0",
        "COUNTERFOIL_LOG_LEVEL": "LOUD",
    }

    for command in ("serve", "migrate", "work"):
        refused = run_counterfoil(command, check=False, **wrong)

        assert refused.returncode == 1
        assert refused.stderr.startswith("Error: The settings are not right. ")
        assert refused.stderr.count("\n") == 1
        assert "Traceback" not in refused.stderr
        assert [name for name in wrong if f"{name}: " not in refused.stderr] == []
    assert "COUNTERFOIL_PORT: " in " ".join(run_counterfoil("doctor", check=False, **wrong).stdout.split())


@pytest.mark.parametrize("name", ["DATABASE_URL", "COUNTERFOIL_SECRET"])
def test_serve_names_what_it_needs(name: str) -> None:
    refused = run_counterfoil("serve", check=False, **{"DATABASE_URL": "postgresql://127.0.0.1/x", name: ""})

    assert refused.returncode == 1
    assert refused.stderr == (
        f"Error: {name} is not set; `serve` needs it. `counterfoil up` starts everything by itself.\n"
    )


def test_the_worker_names_what_it_needs() -> None:
    refused = run_counterfoil("work", check=False, DATABASE_URL="")

    assert refused.returncode == 1
    assert refused.stderr == (
        "Error: DATABASE_URL is not set; `work` needs it. `counterfoil up` starts everything by itself.\n"
    )


@pytest.mark.parametrize("command", ["migrate", "reconcile"])
def test_a_command_without_a_database_says_where_to_get_one(command: str, tmp_path: Path) -> None:
    refused = run_counterfoil(command, "--data", str(tmp_path), check=False, DATABASE_URL="")

    assert refused.returncode == 1
    assert refused.stderr.startswith("Error: No running service found (")
    assert "start one with `make up`" in refused.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    shown = run_counterfoil(command, "--help", DATABASE_URL="")

    assert shown.returncode == 0
    assert f"counterfoil {command}" in shown.stdout
    assert shown.stderr == ""


def test_the_whole_lists_every_command_and_its_version() -> None:
    shown, version = run_counterfoil("--help"), run_counterfoil("--version")

    assert [command for command in COMMANDS if f" {command} " not in shown.stdout] == []
    assert version.stdout.startswith("counterfoil 0.")
    assert run_counterfoil("fly", check=False).returncode == 2


def test_it_says_who_may_come_in_and_where_limits_are_counted(tmp_path: Path, redis_server: Any) -> None:
    base = {"DATABASE_URL": "", "COUNTERFOIL_LIMIT_FACTOR": "1"}
    public = {
        "COUNTERFOIL_PUBLIC_URL": "https://shop.example",
        "COUNTERFOIL_ALLOWED_HOSTS": "shop.example",
        "COUNTERFOIL_TRUSTED_PROXIES": "10.0.0.0/8",
    }

    def told(check: bool = True, **environment: str) -> dict[str, dict[str, Any]]:  # noqa: FBT001, FBT002 - as run_counterfoil
        arguments = ("doctor", "--json", "-", "--data", str(tmp_path))
        return findings_of(run_counterfoil(*arguments, check=check, **base, **environment).stdout)

    demo = told(COUNTERFOIL_DEMO="1")
    bare = told(COUNTERFOIL_DEMO="0")
    ready = told(COUNTERFOIL_DEMO="0", **public, REDIS_URL=redis_server.url)
    redis_server.stop()
    away = told(check=False, COUNTERFOIL_DEMO="0", **public, REDIS_URL=redis_server.url)

    assert demo["Public address"]["found"] == "demo mode: plain HTTP, this machine only"
    assert bare["Public address"]["found"].startswith("COUNTERFOIL_PUBLIC_URL, COUNTERFOIL_ALLOWED_HOSTS, COUNTERFOIL_")
    assert (ready["Public address"]["state"], ready["Rate limits"]["found"]) == ("ok", "counted in Redis")
    assert demo["Rate limits"]["found"] == "counted in PostgreSQL"
    assert (away["Rate limits"]["state"], away["Rate limits"]["found"]) == (
        "wrong",
        "REDIS_URL does not answer (ConnectionError)",
    )


def test_it_looks_where_the_keys_are_and_whether_the_file_opens_them(
    empty_database: Callable[[], str], tmp_path: Path
) -> None:
    url, empty = empty_database(), empty_database()
    run_counterfoil("migrate", DATABASE_URL=url)
    run_counterfoil("load-demo", DATABASE_URL=url)
    other = tmp_path / "other.keys"
    run_counterfoil("keys", "rotate", "--new", DATABASE_URL=empty, COUNTERFOIL_MASTER_KEYS_FILE=str(other))

    def told(**environment: str) -> tuple[str, str]:
        arguments = ("doctor", "--json", "-", "--data", str(tmp_path))
        done = run_counterfoil(*arguments, check=False, **{"DATABASE_URL": url, **environment})
        found = findings_of(done.stdout)["Key store"]
        return found["state"], found["found"]

    nothing = empty_database()
    well, elsewhere = told(), told(COUNTERFOIL_KEYS_URL=nothing)
    away, foreign = (
        told(COUNTERFOIL_KEYS_URL="postgresql://127.0.0.1:1/keys"),
        told(COUNTERFOIL_MASTER_KEYS_FILE=str(other)),
    )

    assert well[0] == "ok"
    assert well[1].endswith("keys, the file opens all of them")
    assert (elsewhere[0], elsewhere[1].endswith("has no tables of keys")) == ("wrong", True)
    assert away[0] == "wrong"
    assert (foreign[0], foreign[1].endswith("which is not in the file")) == ("wrong", True)


def test_keys_that_are_elsewhere_are_one_clear_sentence(database_url: str, empty_database: Callable[[], str]) -> None:
    for command in (("keys", "list"), ("privacy", "erase", "ada@example.com"), ("load-demo",)):
        refused = run_counterfoil(
            *command, check=False, DATABASE_URL=database_url, COUNTERFOIL_KEYS_URL=empty_database()
        )

        assert refused.returncode == 1
        assert refused.stderr.endswith(
            "Error: The key store has no tables; run `counterfoil migrate`, or set COUNTERFOIL_KEYS_URL to the database"
            " that has them.\n"
        )
        assert "Traceback" not in refused.stderr


def test_it_says_where_mails_go(tmp_path: Path) -> None:
    def told(**environment: str) -> tuple[str, str]:
        done = run_counterfoil("doctor", "--json", "-", "--data", str(tmp_path), DATABASE_URL="", **environment)
        found = findings_of(done.stdout)["Mail"]
        return found["state"], found["found"]

    out = {"COUNTERFOIL_OUTBOX_DIR": str(tmp_path)}

    assert told(COUNTERFOIL_DEMO="1", **out) == ("ok", f"demo mode: written to files in {tmp_path}")
    assert told(COUNTERFOIL_DEMO="0", **out) == ("note", f"written to files in {tmp_path}, nobody gets them")
    assert told(COUNTERFOIL_MAIL_URL="smtp://mail.example:587") == ("ok", "sent by mail.example, port 587")


@pytest.mark.parametrize("scheme", ["mysql", "postgresql"])
@pytest.mark.parametrize("password", ["geheim-7", "geheim/7", "geheim@7"])
def test_no_password_of_an_address_is_shown(scheme: str, password: str, tmp_path: Path) -> None:
    url = f"{scheme}://root:{password}@127.0.0.1:1/shop"

    told = run_counterfoil("doctor", "--json", "-", "--data", str(tmp_path), check=False, DATABASE_URL=url)
    refused = run_counterfoil("migrate", check=False, DATABASE_URL=url)
    started = subprocess.run(
        [sys.executable, "-c", "import counterfoil.config.settings"],
        env={**os.environ, "DATABASE_URL": url, "REDIS_URL": f"http://:{password}@127.0.0.1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (told.returncode, findings_of(told.stdout)["Database"]["state"]) == (1, "wrong")
    assert "REDIS_URL" in started.stderr or "redis_url" in started.stderr
    for text in (told.stdout, told.stderr, refused.stdout, refused.stderr, started.stdout, started.stderr):
        assert "geheim" not in text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("mysql://root:geheim@host/db is wrong", "mysql://root:***@host/db is wrong"),
        ("redis://:geheim@host", "redis://:***@host"),
        ("smtps://a:ge@he:im@host:465", "smtps://a:***@host:465"),
        ("host=x password=geheim user=y", "host=x password=*** user=y"),
        ("host=x password='ge heim' user=y", "host=x password=*** user=y"),
        ("http://127.0.0.1:8000/docs", "http://127.0.0.1:8000/docs"),
        ("https://shop.example, a@b.example", "https://shop.example, a@b.example"),
    ],
)
def test_passwords_are_masked_in_any_address(text: str, shown: str) -> None:
    from counterfoil.cli.service import mask_passwords

    assert mask_passwords(text) == shown
