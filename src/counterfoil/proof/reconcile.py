"""Holds the whole database against the identities of the domain: every difference, with the rows that cause it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg.rows import dict_row

from counterfoil.infrastructure.database import load_queries, translate_database_error
from counterfoil.orders.states import BEGINNINGS, CHILD_EVENTS, TRANSITIONS, OrderStatus

QUERIES: Final = {
    name: sql
    for file in ("reconcile.sql", "reconcile_life.sql", "reconcile_money.sql")
    for name, sql in load_queries(Path(__file__).with_name(file)).items()
}
# Enough to see a pattern; all differences are counted.
EXAMPLES_MAX: Final = 20

# One snapshot for all checks, however long they take. The memory is for sorting in the server, in each of a few
# workers; more spills to disk. Groups are as many as orders: sorting them, often along an index, takes a third of the
# time of hashing them and a fixed amount of memory.
_SESSION: Final = (
    "SET statement_timeout = 0",
    "SET idle_in_transaction_session_timeout = 0",
    "SET work_mem = '64MB'",
    "SET max_parallel_workers_per_gather = 2",
    "SET enable_hashagg = off",
    "SET jit = off",
)


@dataclass(frozen=True, slots=True)
class Check:
    """One identity: `name` is its statement in reconcile.sql, `subject` what it goes through, `promise` what holds."""

    name: str
    subject: str
    promise: str


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found: `rows` compared, `differences` counted, the first few of them as `examples`."""

    check: Check
    rows: int
    differences: int
    examples: tuple[dict[str, Any], ...]
    seconds: float


CHECKS: Final = (
    Check("stock_levels_equal_movements", "stock_movements", "Every counter is the sum of its movements."),
    Check("available_is_not_negative", "stock_levels", "Nothing is oversold."),
    Check("promised_stock_equals_orders", "order_items", "Reserved and allocated are what live orders hold."),
    Check("order_movements_equal_lines", "order_items", "Each order's movements leave what the order holds."),
    Check("orders_have_lines", "orders", "Every order has lines."),
    Check("order_total_equals_lines", "orders", "Every total is the sum of lines and adjustments."),
    Check("amounts_fit_currency", "order_items", "No amount has more digits than its currency."),
    Check("discounts_equal_line_shares", "adjustments", "Discounts are divided among lines without a rest."),
    Check("added_tax_equals_parts", "adjustments", "Added tax is the sum of its parts."),
    Check("coupons_count_their_uses", "coupons", "Every coupon counts the uses that orders have of it."),
    Check("uses_equal_discounts", "coupon_uses", "Orders use the coupons that they were priced with."),
    Check("placed_orders_have_one_created_event", "orders", "Placed orders have one order.created, others none."),
    Check("events_have_their_order", "order_events", "Every event belongs to an order."),
    Check("event_numbers_have_no_gap", "order_events", "The events of an order count 1, 2, 3, …"),
    Check("version_is_last_event_number", "orders", "The version is the number of the last event."),
    Check("events_follow_transitions", "order_events", "Every history is a path of the state diagram."),
    Check("status_agrees_with_events", "orders", "The status is where the history ends."),
    Check("last_event_tells_the_order", "orders", "The last event tells owner, total and version of the order."),
    Check("last_event_tells_the_lines", "order_items", "The last event tells the lines of the order."),
    Check("last_event_tells_the_adjustments", "adjustments", "The last event tells the adjustments of the order."),
    Check("keys_point_to_their_order", "idempotency_keys", "A key stands for an order that its principal placed."),
    Check("orders_have_one_key", "idempotency_keys", "No two keys stand for one order."),
    Check("created_events_are_what_was_audited", "order_events", "A placed order is what its audit entry has hashed."),
    Check("every_event_has_its_audit_entry", "order_events", "Every change has its audit entry, and only those."),
    Check("shipped_units_have_left", "order_items", "What is shipped is in fulfillments and has left the stock."),
    Check("returned_units_came_back", "order_items", "What is returned was received, and what is sold again is there."),
    Check("fulfillments_fit_lines", "fulfillments", "No unit is in two fulfillments."),
    Check("returns_fit_shipments", "returns", "No unit is in two returns, and none that was not shipped."),
    Check("axes_follow_children", "orders", "An order tells of its fulfillments, returns and holds what they say."),
    Check("order_money_follows_payments", "orders", "An order tells of its money what its payments say."),
    Check("payments_fit_their_order", "payments", "Every payment is in its order's currency."),
    Check("refunds_fit_their_payment", "payments", "Nothing is given back that was not taken."),
    Check("ledger_equals_payments", "payments", "The ledger's balance is what was taken and not given back."),
    Check("postings_balance", "ledger_entries", "Every posting of the ledger sums to zero."),
    Check("open_money_has_a_call", "payments", "Whatever is on its way has a call that somebody makes."),
    Check("confirmed_orders_were_covered", "orders", "No order was confirmed without its money, but on terms."),
    Check("undone_orders_keep_no_money", "orders", "An order that is off keeps no money."),
    Check("money_is_told_once", "payments", "Every capture and refund has one event, and those are all."),
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The database as of one instant, and how many rows it has (`rows` by subject)."""

    connection: psycopg.Connection[dict[str, Any]]
    rows: dict[str, int]

    def run(self, check: Check) -> Finding:
        """Run one check; differences are counted as they stream by, so memory does not grow with them."""
        started = time.monotonic()
        with self.connection.cursor() as cursor:
            found = cursor.stream(QUERIES[check.name], _PARAMETERS)
            examples = tuple(islice(found, EXAMPLES_MAX))
            differences = len(examples) + sum(1 for _ in found)
        seconds = time.monotonic() - started
        return Finding(check, self.rows[check.subject], differences, examples, seconds)


@contextmanager
def open_snapshot(url: str) -> Iterator[Snapshot]:
    """Read the database as of now, without stopping anybody. Raises DatabaseUnavailable."""
    try:
        with psycopg.connect(
            url, autocommit=True, row_factory=dict_row, application_name="counterfoil-reconcile", connect_timeout=5
        ) as connection:
            for setting in _SESSION:
                connection.execute(setting)
            connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            connection.read_only = True
            with connection.transaction():
                rows = connection.execute(QUERIES["count_rows"]).fetchone()
                assert rows is not None
                yield Snapshot(connection, rows)
    except psycopg.Error as error:
        if (translated := translate_database_error(error)) is not None:
            raise translated from error
        raise


def _number_transitions() -> dict[str, Any]:
    """Return the state diagram as arrays: statuses become numbers from 1, 0 is the time before the first event."""
    numbers = {status: n for n, status in enumerate(OrderStatus, start=1)}
    changes = {event: numbers[status] for status, event in BEGINNINGS.items()}
    for step in TRANSITIONS:
        if step.before is not step.after:
            assert changes.setdefault(step.event, numbers[step.after]) == numbers[step.after], step
    steps = [(0, event) for event in BEGINNINGS.values()] + [(numbers[step.before], step.event) for step in TRANSITIONS]
    steps += [(numbers[status], event) for event, statuses in CHILD_EVENTS.items() for status in statuses]
    return {
        "event_types": list(changes),
        "event_statuses": list(changes.values()),
        "step_befores": [before for before, _ in steps],
        "step_types": [event for _, event in steps],
        "status_names": [status.value for status in OrderStatus],
    }


_PARAMETERS: Final = _number_transitions()
