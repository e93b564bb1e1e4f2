"""The part of Stripe's API that the simulator has: which parameters each call takes, and what it does."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from counterfoil.proof.gateway_simulator.money import Book, Outcome, Refusal, Thing, invalid

_PAGE_DEFAULT: Final = 10
_PAGE_MAX: Final = 100
_QUERY: Final = re.compile(r"metadata\['([^']+)'\]:'((?:[^'\\]|\\.)*)'")

_CREATE: Final = frozenset(
    {
        *("amount", "currency", "payment_method", "payment_method_types", "capture_method", "confirm", "metadata"),
        *("return_url", "description", "automatic_payment_methods", "confirmation_method", "expand"),
    }
)
_LIST: Final = frozenset({"limit", "starting_after", "created", "expand"})

Action = Callable[[Book, str, Thing, int], Outcome]
View = Callable[[Book, str, Thing, float], Thing]


@dataclass(frozen=True, slots=True)
class MoneyRoute:
    """A POST: takes an idempotency key, may meet a fault, is written to the journal."""

    path: re.Pattern[str]
    parameters: frozenset[str]
    act: Action


@dataclass(frozen=True, slots=True)
class ReadRoute:
    """A GET."""

    path: re.Pattern[str]
    parameters: frozenset[str]
    view: View


def _money(path: str, parameters: set[str] | frozenset[str], act: Action) -> MoneyRoute:
    return MoneyRoute(re.compile(path), frozenset(parameters), act)


def _read(path: str, parameters: set[str] | frozenset[str], view: View) -> ReadRoute:
    return ReadRoute(re.compile(path), frozenset(parameters), view)


def find_money_route(path: str) -> tuple[MoneyRoute, str]:
    """Return the POST route of a path and the identifier in it; raises Refusal."""
    for route in MONEY_ROUTES:
        if match := route.path.fullmatch(path):
            return route, match.group(1) if route.path.groups else ""
    raise _no_such_address("POST", path)


def find_read_route(path: str) -> tuple[ReadRoute, str]:
    """Return the GET route of a path and the identifier in it; raises Refusal."""
    for route in READ_ROUTES:
        if match := route.path.fullmatch(path):
            return route, match.group(1) if route.path.groups else ""
    raise _no_such_address("GET", path)


def check_parameters(form: Thing, known: frozenset[str]) -> None:
    """Refuse what the simulator would silently ignore; raises Refusal."""
    for name in form:
        if name not in known:
            raise invalid(f"Received unknown parameter: {name}", code="parameter_unknown", param=name)


def _no_such_address(method: str, path: str) -> Refusal:
    return Refusal(404, "invalid_request_error", f"Unrecognized request URL ({method}: {path}).")


def _list(known: dict[str, Thing], form: Thing, url: str) -> Thing:
    """Return one page, newest first."""
    limit = _whole(form, "limit", _PAGE_DEFAULT)
    if not 1 <= limit <= _PAGE_MAX:
        raise invalid("limit must be from 1 to 100.", param="limit")
    names = [name for name, thing in known.items() if _is_within(thing, form.get("created", {}))]
    names.reverse()
    after = form.get("starting_after")
    if after is not None and after not in names:
        raise invalid(f"No such object: {after!r}", code="resource_missing", param="starting_after")
    start = names.index(after) + 1 if after is not None else 0
    chosen = names[start : start + limit]
    return {
        "object": "list",
        "data": [known[name] for name in chosen],
        "has_more": len(names) > start + limit,
        "url": url,
    }


def _is_within(thing: Thing, created: Any) -> bool:
    if not isinstance(created, dict):
        created = {"gte": created, "lte": created}
    compare: dict[str, Callable[[int, int], bool]] = {
        "gt": lambda at, bound: at > bound,
        "gte": lambda at, bound: at >= bound,
        "lt": lambda at, bound: at < bound,
        "lte": lambda at, bound: at <= bound,
    }
    if not created.keys() <= compare.keys():
        raise invalid("created takes gt, gte, lt and lte.", param="created")
    return all(compare[word](thing["created"], _whole(created, word, 0)) for word in created)


def _whole(form: Thing, name: str, default: int) -> int:
    text = str(form.get(name, default))
    if not (text.isascii() and text.isdecimal()) or len(text) > 15:  # noqa: PLR2004 - far above every instant and page
        raise invalid(f"Invalid integer: {name}.", code="parameter_invalid_integer", param=name)
    return int(text)


def _search(book: Book, form: Thing, visible_before: float) -> Thing:
    """Find intents by one piece of metadata, as they were a while ago: Stripe's search lags."""
    match = _QUERY.fullmatch(str(form.get("query", "")))
    if match is None:
        raise invalid("The simulator searches for metadata['name']:'value' only.", param="query")
    name, value = match[1], re.sub(r"\\(.)", r"\1", match[2])
    found = [
        intent
        for intent in book.intents.values()
        if intent["metadata"].get(name) == value and intent["created"] <= visible_before
    ]
    return {
        "object": "search_result",
        "data": found[::-1][: _whole(form, "limit", _PAGE_DEFAULT)],
        "has_more": False,
        "next_page": None,
        "url": "/v1/payment_intents/search",
    }


def _refund_list(book: Book, form: Thing) -> Thing:
    of = form.get("payment_intent")
    known = book.refunds if of is None else {refund["id"]: refund for refund in book.refunds_of(of)}
    return _list(known, form, "/v1/refunds")


MONEY_ROUTES: Final = (
    _money("/v1/payment_intents", _CREATE, lambda book, _, form, now: book.create(form, now)),
    _money("/v1/payment_intents/([^/]+)/confirm", {"payment_method", "return_url", "expand"}, Book.confirm),
    _money("/v1/payment_intents/([^/]+)/capture", {"amount_to_capture", "expand"}, Book.capture),
    _money("/v1/payment_intents/([^/]+)/cancel", {"cancellation_reason", "expand"}, Book.cancel),
    _money(
        "/v1/refunds",
        {"payment_intent", "amount", "metadata", "reason", "expand"},
        lambda book, _, form, now: book.refund(form, now),
    ),
)
READ_ROUTES: Final = (
    _read(
        "/v1/payment_intents/search",
        {"query", "limit", "expand"},
        lambda book, _, form, visible_before: _search(book, form, visible_before),
    ),
    _read("/v1/payment_intents", _LIST, lambda book, _, form, __: _list(book.intents, form, "/v1/payment_intents")),
    _read("/v1/payment_intents/([^/]+)", {"expand", "client_secret"}, lambda book, name, _, __: book.intent(name)),
    _read("/v1/refunds", _LIST | {"payment_intent"}, lambda book, _, form, __: _refund_list(book, form)),
    _read("/v1/refunds/([^/]+)", {"expand"}, lambda book, name, _, __: book.get_refund(name)),
    _read("/v1/events", _LIST, lambda book, _, form, __: _list(book.events, form, "/v1/events")),
    _read("/v1/events/([^/]+)", frozenset(), lambda book, name, _, __: book.event(name)),
)
