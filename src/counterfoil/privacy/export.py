"""Everything that is known about a person: as JSON, and as tables."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Final

import msgspec

from counterfoil.infrastructure.audit import read_entries_about_user
from counterfoil.kernel.money import Money
from counterfoil.kernel.percent import Percent
from counterfoil.orders import fulfilment, remarks, returns
from counterfoil.orders import services as orders
from counterfoil.orders.events import TimelineEntry
from counterfoil.orders.history import OrderView
from counterfoil.privacy.errors import ExportTooLarge
from counterfoil.privacy.money_export import PaidBack, PaidIn, collect_money
from counterfoil.users import services as users

_PAGE: Final = 500
# What of an order has a table of its own.
_PARTS: Final = frozenset({"lines", "adjustments", "events"})
# A spreadsheet takes a cell that begins so for a formula, and runs it.
_FORMULA_BEGINNINGS: Final = ("=", "+", "-", "@", "\t", "\r", "\n")


class Account(msgspec.Struct, frozen=True):
    """The account; its password is stored as a hash only."""

    id: int
    email: str
    name: str
    role: str
    is_active: bool
    email_confirmed_at: datetime | None
    created_at: datetime
    updated_at: datetime
    erasure_requested_at: datetime | None


class SignIn(msgspec.Struct, frozen=True):
    """A sign-in on one device; known for three months."""

    began_at: datetime
    last_used_at: datetime
    expires_at: datetime
    ended_at: datetime | None
    end_reason: str


class Key(msgspec.Struct, frozen=True):
    """A program's key that acts as the account; its secret is stored as a hash only."""

    id: int
    name: str
    prefix: str
    scopes: list[str]
    created_by: str
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class Link(msgspec.Struct, frozen=True):
    """A mail with a link that was asked for; known for a month."""

    purpose: str
    requested_at: datetime
    sent_at: datetime | None
    expires_at: datetime | None
    used_at: datetime | None


class Line(msgspec.Struct, frozen=True):
    """One line of an order as sold."""

    product_id: int
    sku: str
    name: str
    quantity: int
    unit_price: str
    discount: str
    tax_rate: str
    tax: str


class Adjustment(msgspec.Struct, frozen=True):
    """An amount on top of or off an order's lines: a coupon, shipping, tax."""

    kind: str
    label: str
    amount: str


class Event(msgspec.Struct, frozen=True):
    """What happened to an order, when and by whom."""

    seq: int
    type: str
    occurred_at: datetime
    actor: str
    request_id: str


class SoldOrder(msgspec.Struct, frozen=True):
    """An order with its lines and events; amounts as text, exact."""

    id: int
    status: str
    payment_status: str
    fulfillment_status: str
    return_status: str
    total: str
    currency: str
    client_reference: str | None
    created_at: datetime
    placed_at: datetime | None
    updated_at: datetime
    lines: list[Line]
    adjustments: list[Adjustment]
    events: list[Event]


class Consignment(msgspec.Struct, frozen=True):
    """Goods on their way: what, by whom, and how they were followed."""

    order_id: int
    status: str
    units: int
    carrier: str
    tracking_number: str
    tracking_url: str
    shipped_at: datetime | None
    delivered_at: datetime | None


class GivenBack(msgspec.Struct, frozen=True):
    """Goods given back, or that were to be."""

    order_id: int
    status: str
    reason: str
    decision: str
    units: int
    units_received: int
    created_at: datetime


class Stop(msgspec.Struct, frozen=True):
    """Why an order was stopped for a while."""

    order_id: int
    reason: str
    created_at: datetime
    released_at: datetime | None


class Note(msgspec.Struct, frozen=True):
    """What staff wrote about an order."""

    order_id: int
    body: str | None
    created_at: datetime


class AuditLine(msgspec.Struct, frozen=True):
    """What was done to the account, or who of the staff has read it."""

    id: int
    occurred_at: datetime
    actor: str
    action: str
    request_id: str
    reason: str


class PersonalData(msgspec.Struct, frozen=True):
    """Everything: account, profile, how it is used, orders, and what was done with the account."""

    account: Account
    profile: dict[str, str]
    sign_ins: list[SignIn]
    api_keys: list[Key]
    links: list[Link]
    orders: list[SoldOrder]
    payments: list[PaidIn]
    refunds: list[PaidBack]
    fulfillments: list[Consignment]
    returns: list[GivenBack]
    holds: list[Stop]
    order_notes: list[Note]
    audit: list[AuditLine]


def collect_personal_data(user_id: int, *, orders_max: int | None) -> PersonalData:
    """Read everything about a person. Raises UserNotFound, and ExportTooLarge for more than `orders_max` orders."""
    user = users.find_user(user_id)
    sold: list[SoldOrder] = []
    for view, events in _pages_of_orders(user_id):
        if len(sold) == orders_max:
            raise ExportTooLarge(orders_max=orders_max)
        sold.append(_sold_order(view, events))
    access = users.find_access(user_id)
    order_ids = [order.id for order in sold]
    paid_in, paid_back = collect_money(order.id for order in sold if any(_is_about_money(e) for e in order.events))
    return PersonalData(
        _account(user),
        {field: getattr(user.profile, field) for field in user.profile.__dataclass_fields__},
        [SignIn(*each) for each in access.sign_ins],
        [_key(each) for each in access.api_keys],
        [Link(*each) for each in access.links],
        sold,
        paid_in,
        paid_back,
        [_consignment(each) for each in fulfilment.read_fulfillments_of(order_ids)],
        [_given_back(each) for each in returns.read_returns_of(order_ids)],
        [
            Stop(each.order_id, each.reason, each.created_at, each.released_at)
            for each in remarks.read_holds_of(order_ids)
        ],
        [Note(each.order_id, each.text, each.created_at) for each in remarks.read_notes_of(user_id, order_ids)],
        list(_audit_lines(user_id)),
    )


def _is_about_money(event: Event) -> bool:
    return event.type.startswith("payment.")


def _account(user: users.UserRecord) -> Account:
    return Account(
        id=user.id,
        email=user.email,
        name=user.name,
        role=user.role.value,
        is_active=user.is_active,
        email_confirmed_at=user.email_confirmed_at,
        created_at=user.created_at,
        updated_at=user.updated_at,
        erasure_requested_at=user.erasure_requested_at,
    )


def _key(key: users.ApiKeyRecord) -> Key:
    shown = {field: getattr(key, field) for field in Key.__struct_fields__}
    return Key(**{**shown, "scopes": list(key.scopes)})


def _pages_of_orders(user_id: int) -> Iterator[tuple[OrderView, list[TimelineEntry]]]:
    after = 0
    while page := orders.read_history(user_id, after=after, limit=_PAGE):
        yield from page
        after = page[-1][0].facts.order_id


def _audit_lines(user_id: int) -> Iterator[AuditLine]:
    after = 0
    while page := read_entries_about_user(user_id, after=after, limit=_PAGE):
        yield from (AuditLine(*row) for row in page)
        after = page[-1][0]


def _sold_order(view: OrderView, events: list[TimelineEntry]) -> SoldOrder:
    facts = view.facts
    return SoldOrder(
        id=facts.order_id,
        status=view.status.value,
        payment_status=facts.payment_status,
        fulfillment_status=facts.fulfillment_status,
        return_status=facts.return_status,
        total=_amount(facts.total_minor, facts.currency),
        currency=facts.currency,
        client_reference=facts.client_reference,
        created_at=facts.created_at,
        placed_at=view.placed_at,
        updated_at=view.updated_at,
        lines=[
            Line(
                i.product_id,
                i.sku,
                i.name,
                i.quantity,
                _amount(i.unit_price_minor, facts.currency),
                _amount(i.discount_minor, facts.currency),
                str(Percent(i.tax_rate_ppm).to_decimal()),
                _amount(i.tax_minor, facts.currency),
            )
            for i in facts.items
        ],
        adjustments=[Adjustment(a.kind, a.label, _amount(a.amount_minor, facts.currency)) for a in facts.adjustments],
        events=[Event(e.seq, e.type, e.occurred_at, e.actor, e.request_id) for e in events],
    )


def _consignment(found: fulfilment.FulfillmentRecord) -> Consignment:
    return Consignment(
        order_id=found.order_id,
        status=found.status.value,
        units=sum(line.quantity for line in found.lines),
        carrier=found.carrier,
        tracking_number=found.tracking_number,
        tracking_url=found.tracking_url,
        shipped_at=found.shipped_at,
        delivered_at=found.delivered_at,
    )


def _stop(found: remarks.HoldRecord) -> Stop:
    return Stop(found.order_id, found.reason, found.created_at, found.released_at)


def _given_back(found: returns.ReturnRecord) -> GivenBack:
    return GivenBack(
        order_id=found.order_id,
        status=found.status.value,
        reason=found.reason.value,
        decision=found.decision,
        units=sum(line.quantity for line in found.lines),
        units_received=sum(line.received for line in found.lines),
        created_at=found.created_at,
    )


def _amount(minor: int, currency: str) -> str:
    return str(Money(minor, currency).to_decimal())


# ---------------------------------------------------------------- forms
def render_json(data: PersonalData) -> bytes:
    """Return the data as JSON for people and programs."""
    return msgspec.json.format(msgspec.json.encode(data), indent=2)


def render_csv(data: PersonalData) -> bytes:
    """Return the data as a ZIP file of CSV tables, one row a fact, safe to open in a spreadsheet."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, rows in _tables(data):
            archive.writestr(f"{name}.csv", _csv(rows))
    return packed.getvalue()


def _tables(data: PersonalData) -> Iterator[tuple[str, list[dict[str, object]]]]:
    yield "account", [msgspec.to_builtins(data.account) | data.profile]
    yield "sign_ins", [msgspec.to_builtins(each) for each in data.sign_ins]
    yield "api_keys", [{**msgspec.to_builtins(key), "scopes": " ".join(key.scopes)} for key in data.api_keys]
    yield "links", [msgspec.to_builtins(each) for each in data.links]
    sold = [msgspec.to_builtins(order) for order in data.orders]
    yield "orders", [{k: v for k, v in order.items() if k not in _PARTS} for order in sold]
    yield "order_lines", [{"order_id": order["id"], **line} for order in sold for line in order["lines"]]
    yield "order_adjustments", [{"order_id": order["id"], **part} for order in sold for part in order["adjustments"]]
    yield "order_events", [{"order_id": order["id"], **event} for order in sold for event in order["events"]]
    for name in ("payments", "refunds", "fulfillments", "returns", "holds", "order_notes"):
        yield name, [msgspec.to_builtins(each) for each in getattr(data, name)]
    yield "audit", [msgspec.to_builtins(line) for line in data.audit]


def _csv(rows: Iterable[dict[str, object]]) -> str:
    table = list(rows)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    if table:
        writer.writerow(table[0])
        writer.writerows([_cell(value) for value in row.values()] for row in table)
    return text.getvalue()


def _cell(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA_BEGINNINGS) else value
