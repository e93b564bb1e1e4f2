"""The reference pages and the snapshots, each from the code that it describes."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec
import typer.main
from docs_text import NOTE, fence, first_line, table

from counterfoil.api import errors as api_errors
from counterfoil.api.app import make_api
from counterfoil.cli.main import app as command_line
from counterfoil.config.settings import Settings
from counterfoil.infrastructure.metrics import REGISTRY
from counterfoil.kernel.errors import KINDS, DomainError, all_errors
from counterfoil.orders.events import OrderFacts
from counterfoil.orders.states import ACTIVITIES, BEGINNINGS, CHILD_EVENTS, TRANSITIONS, render_state_diagram

_PACKAGES_WITH_ERRORS: Final = ("kernel", "infrastructure", "users", "products", "inventory", "orders", "api")
_DOORS_AND_CORE: Final = tuple(f"counterfoil.{name}." for name in _PACKAGES_WITH_ERRORS)
# The largest identifier that the database can hold, which says nothing to a reader (JSON Schema: also as a float).
_UNBOUNDED: Final = (2**63 - 1, float(2**63 - 1))
# What a bug is answered with.
_INTERNAL: Final = (500, "INTERNAL_ERROR", "Something went wrong on our side; it is logged under this request_id.")


# ---------------------------------------------------------------- errors
def known_errors() -> list[type[DomainError]]:
    """Return every error that HTTP can answer, by code, after importing all that could define one."""
    for name in _PACKAGES_WITH_ERRORS:
        package = importlib.import_module(f"counterfoil.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    return [error for error in all_errors() if error.__module__.startswith(_DOORS_AND_CORE)]


def render_error_table() -> str:
    """Return code, kind, HTTP status and sentence of every error, by status and code."""
    rows = [
        (api_errors.status_of(error), f"`{error.code}`", _kind(error), first_line(error.__doc__))
        for error in known_errors()
    ]
    known = {error.code for error in known_errors()}
    rows += [
        (status, f"`{code}`", "HTTP itself", sentence)
        for status, (code, sentence) in api_errors.HTTP_FAILURES.items()
        if code not in known
    ]
    rows.append((_INTERNAL[0], f"`{_INTERNAL[1]}`", "a bug", _INTERNAL[2]))
    return table(("status", "code", "kind", "sentence"), sorted(rows))


def render_errors() -> str:
    """Return the page of errors."""
    kinds = [(f"`{kind.__name__}`", api_errors.status_of(kind), first_line(kind.__doc__)) for kind in KINDS]
    return (
        f"# Errors\n\n{NOTE}"
        "Every error has one form (`application/problem+json`). `error.code` is stable; words in braces are filled\n"
        "from `error.details`. A 503 carries `Retry-After`; nothing of such a request was done, unless the\n"
        "connection broke while it was being written: then the same `Idempotency-Key` gives the true answer.\n\n"
        f"## Kinds\n\n{table(('kind', 'status', 'meaning'), kinds)}\n## Codes\n\n{render_error_table()}"
    )


def _kind(error: type[DomainError]) -> str:
    return next(kind.__name__ for kind in KINDS if issubclass(error, kind))


# ---------------------------------------------------------------- the API
def openapi() -> dict[str, Any]:
    """Return the OpenAPI document as it is served, without starting anything."""
    document: dict[str, Any] = make_api(state={}).openapi_schema.to_schema()
    return document


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (method, path, operation) by path and method."""
    for path, item in sorted(openapi()["paths"].items()):
        for method, operation in sorted(item.items()):
            yield method.upper(), path, operation


def render_endpoint_table() -> str:
    """Return method, path, what it does and what it may answer, of every endpoint."""
    return table(
        ("method", "path", "what", "statuses"),
        [
            (method, f"`{path}`", operation.get("summary", ""), " ".join(sorted(operation["responses"])))
            for method, path, operation in operations()
        ],
    )


_API_HEAD: Final = f"""# HTTP API

{NOTE}The running service shows the same at `/docs`, with a form to try it, and as `/docs/openapi.json`. Rules that hold
for every endpoint are in [the technical design](../technical-design.md#6-api-specification).
"""


def render_api() -> str:
    """Return the page of the HTTP API."""
    parts = [_API_HEAD, f"## Endpoints\n\n{render_endpoint_table()}"]
    parts += [_render_operation(method, path, operation) for method, path, operation in operations()]
    schemas = openapi()["components"]["schemas"]
    parts.append("## Shapes\n")
    parts += [_render_shape(name, schemas[name]) for name in sorted(schemas)]
    return "\n".join(parts)


def _render_operation(method: str, path: str, operation: dict[str, Any]) -> str:
    lines = [f"## {method} {path}\n", f"{operation.get('summary', '').rstrip('.')}.\n"]
    if text := operation.get("description"):
        lines.append(f"{text}\n")
    parameters = [
        (f"`{p['name']}`", p["in"], _describe_type(p["schema"]), "yes" if p.get("required") else "", _meaning(p))
        for p in sorted(operation.get("parameters", []), key=lambda p: (p["in"], p["name"]))
    ]
    if parameters:
        lines.append(table(("parameter", "in", "type", "required", "meaning"), parameters))
    if body := operation.get("requestBody"):
        lines.append(f"Body: {_describe_type(body['content']['application/json']['schema'])}\n")
    answers = sorted(operation["responses"].items())
    good = [f"{status} ({_answer(answer)})" for status, answer in answers if status < "400"]
    bad = [status for status, _ in answers if status >= "400"]
    problems = f" Errors ([Problem](#problem)): {', '.join(bad)}." if bad else ""
    lines.append(f"Answers: {', '.join(good)}.{problems}\n")
    return "\n".join(lines)


def _meaning(parameter: dict[str, Any]) -> str:
    text: str = parameter.get("description") or parameter["schema"].get("description") or ""
    return text


def _answer(answer: dict[str, Any]) -> str:
    content = answer.get("content") or {}
    for media in content.values():
        if media.get("schema"):
            return _describe_type(media["schema"])
    return "no body"


def _render_shape(name: str, schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return f"### {name}\n\n" + ", ".join(f"`{value}`" for value in schema["enum"]) + "\n"
    required = set(schema.get("required", []))
    rows = [
        (
            f"`{field}`",
            _describe_type(of),
            "yes" if field in required else "",
            of.get("description", ""),
        )
        for field, of in schema.get("properties", {}).items()
    ]
    return f"### {name}\n\n{table(('field', 'type', 'required', 'meaning'), rows)}"


def _describe_type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    for word in ("oneOf", "anyOf", "allOf"):
        if word in schema:
            return " or ".join(_describe_type(member) for member in schema[word]) + _bounds(schema)
    if schema.get("type") == "array":
        return f"list of {_describe_type(schema.get('items', {}))}{_bounds(schema)}"
    kind = schema.get("type", "any")
    return f"{' or '.join(kind) if isinstance(kind, list) else kind}{_bounds(schema)}"


def _bounds(schema: dict[str, Any]) -> str:
    words = {
        "minimum": "≥ {:,.0f}",
        "maximum": "≤ {:,.0f}",
        "minItems": "{} or more",
        "maxItems": "{} at most",
        "maxLength": "{} characters at most",
        "pattern": "matches `{}`",
        "default": "default `{}`",
    }
    found = [text.format(schema[key]) for key, text in words.items() if key in schema and schema[key] not in _UNBOUNDED]
    if "enum" in schema:
        found.insert(0, "one of " + ", ".join(f"`{value}`" for value in schema["enum"]))
    return f" ({', '.join(found)})" if found else ""


# ---------------------------------------------------------------- events and states
def event_types() -> list[tuple[str, str]]:
    """Return (event type, how it comes about) for every event that is written, by type."""
    found: dict[str, set[str]] = {}
    for status, event in BEGINNINGS.items():
        found.setdefault(event, set()).add(f"an order begins as `{status}`")
    for step in TRANSITIONS:
        found.setdefault(step.event, set()).add(f"{step.action}: `{step.before}` to `{step.after}`")
    for event in CHILD_EVENTS:
        found.setdefault(event, set()).add("something that belongs to the order changes; its status does not")
    return [(event, "; ".join(sorted(reasons))) for event, reasons in sorted(found.items())]


def render_events() -> str:
    """Return the page of events."""
    shapes = []
    structs: tuple[type[msgspec.Struct], ...] = (OrderFacts, *_nested(OrderFacts))
    for struct in structs:
        hints = typing.get_type_hints(struct)
        rows = [(f"`{field.name}`", f"`{_name(hints[field.name])}`") for field in msgspec.structs.fields(struct)]
        shapes.append(f"### {struct.__name__}\n\n{first_line(struct.__doc__)}\n\n{table(('field', 'type'), rows)}")
    return (
        f"# Events\n\n{NOTE}"
        "An event is a row of `outbox_events`, written in the transaction of the change it tells of. `seq` counts the\n"
        "events of one order from 1 without a gap. This version stores events; it does not deliver them yet.\n"
        "They hold ids, amounts and versions, never personal data.\n\n"
        f"## Types\n\n{table(('type', 'written when'), [(f'`{t}`', why) for t, why in event_types()])}\n"
        f"## Payload\n\n" + "\n".join(shapes)
    )


def _nested(struct: type[msgspec.Struct]) -> list[type[msgspec.Struct]]:
    members = [m for hint in typing.get_type_hints(struct).values() for m in (hint, *typing.get_args(hint))]
    return [member for member in members if inspect.isclass(member) and issubclass(member, msgspec.Struct)]


def _name(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_name(member) for member in typing.get_args(hint)).replace("NoneType", "null")
    if typing.get_origin(hint) is tuple:
        return f"list of {_name(typing.get_args(hint)[0])}"
    return str(getattr(hint, "__name__", hint))


def render_order_states() -> str:
    """Return the page of order states."""
    steps = [
        (f"`{step.before}`", step.action, f"`{step.after}`", f"`{step.event}`", _list(step.parties), _list(step.guards))
        for step in TRANSITIONS
    ]
    activities = [(a.action, _list(a.statuses), _list(a.parties), _list(a.guards)) for a in ACTIVITIES]
    return (
        f"# Order states\n\n{NOTE}{fence('mermaid', render_state_diagram())}\n"
        f"{table(('from', 'action', 'to', 'event', 'by', 'if'), steps)}\n"
        "## What goes on while the status stays\n\n"
        f"{table(('action', 'while', 'by', 'if'), activities)}"
    )


def _list(words: Iterable[str]) -> str:
    return ", ".join(sorted(words))


# ---------------------------------------------------------------- settings, metrics, command line
def render_settings() -> str:
    """Return the page of settings."""
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.get_default()
        shown = default.get_secret_value() if hasattr(default, "get_secret_value") else default
        bounds = ", ".join(
            f"{sign} {getattr(item, key):,}"
            for item in field.metadata
            for key, sign in (("ge", "≥"), ("le", "≤"))
            if hasattr(item, key)
        )
        default_text = "" if shown == "" else f"`{shown}`"
        rows.append((f"`{name.upper()}`", default_text, bounds, field.description or ""))
    return (
        f"# Settings\n\n{NOTE}"
        "Environment variables, read once at the start of a process by `config/settings.py` and nowhere else. A value\n"
        "that cannot be used stops the start with a sentence that names the variable.\n\n"
        f"{table(('variable', 'default', 'bounds', 'meaning'), rows)}"
    )


def metrics() -> list[tuple[str, str, str, str]]:
    """Return (name, type, labels, help) of every metric, by name."""
    collectors = {id(collector): collector for collector in vars(REGISTRY)["_collector_to_names"]}
    found = []
    for collector in collectors.values():
        values = vars(collector)
        [family] = collector.describe()
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found.append((name, family.type, ", ".join(values["_labelnames"]), family.documentation))
    return sorted(found)


def render_metrics_page() -> str:
    """Return the page of metrics."""
    rows = [(f"`{name}`", kind, labels, text) for name, kind, labels, text in metrics()]
    return (
        f"# Metrics\n\n{NOTE}"
        "`GET /metrics` answers these in the Prometheus text format, for administrators. Each web process counts for\n"
        "itself.\n\n"
        f"{table(('metric', 'type', 'labels', 'meaning'), rows)}"
    )


_CLI_HEAD: Final = f"""# Command line

{NOTE}`counterfoil COMMAND --help` shows the same. An error is one sentence on standard error. Exit codes: 0 done and
the promise holds, 1 failed or a difference was found, 2 wrong usage, 3 temporarily unavailable.
"""


def render_cli() -> str:
    """Return the page of the command line."""
    commands: dict[str, Any] = vars(typer.main.get_command(command_line))["commands"]
    parts = [_CLI_HEAD]
    for name, command in commands.items():
        parts.append(_render_command(f"## counterfoil {name}", command))
        for part, subcommand in vars(command).get("commands", {}).items():
            parts.append(_render_command(f"### counterfoil {name} {part}", subcommand))
    return "\n".join(parts)


def _render_command(heading: str, command: Any) -> str:
    text = f"{heading}\n\n{' '.join((command.help or '').split())}\n"
    shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
    rows = [(_words(parameter), _default(parameter), getattr(parameter, "help", "") or "") for parameter in shown]
    return text if not rows else text + "\n" + table(("option", "default", "meaning"), rows)


def _words(parameter: Any) -> str:
    return " ".join(f"`{word}`" for word in [*parameter.opts, *parameter.secondary_opts])


def _default(parameter: Any) -> str:
    if parameter.default is None or parameter.default is False or callable(parameter.default):
        return ""
    return f"`{parameter.default}`"


# ---------------------------------------------------------------- snapshots
def as_json(value: Any) -> str:
    """Return JSON that is the same for the same value."""
    return json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def render_snapshots() -> dict[str, str]:
    """Return file name → text of everything that others rely on: a change of it shows up in a review."""
    return {
        "openapi.json": as_json(openapi()),
        "events.json": as_json({"types": dict(event_types()), "payload": msgspec.json.schema(OrderFacts)}),
        "errors.md": render_error_table(),
        "order_states.mmd": render_state_diagram(),
        "metrics.txt": "".join(f"{name} {kind} [{labels}] {text}\n" for name, kind, labels, text in metrics()),
    }


def render_pages() -> dict[str, str]:
    """Return file name → text of every page under docs/reference."""
    return {
        "api.md": render_api(),
        "cli.md": render_cli(),
        "errors.md": render_errors(),
        "events.md": render_events(),
        "metrics.md": render_metrics_page(),
        "order-states.md": render_order_states(),
        "settings.md": render_settings(),
    }
