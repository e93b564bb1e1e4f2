"""What stands in a cell of the console: amounts as people write them, and links to what is named."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlencode

from django.urls import reverse
from django.utils.html import format_html, format_html_join

from counterfoil.kernel.money import Money

# What an audit entry or an actor can name, and the page that shows it.
_PAGES: Final = {
    "order": "order",
    "payment": "payment",
    "refund": "refund",
    "product": "product",
    "user": "user",
    # Their rows have the numbers of what they belong to.
    "profile": "user",
    "stock_level": "stocklevel",
    "stock_movement": "stockmovement",
}
_BIGINT_DIGITS_MAX: Final = 18
# Enough to tell two values apart by eye.
_HASH_CHARS_SHOWN: Final = 23


def render_amount(amount: Decimal, currency: str, quantity: int = 1) -> str:
    """Write an amount with the digits of its currency: `29.80 EUR`; with `quantity`, that many times the amount."""
    return str(Money.from_decimal(amount, currency) * quantity)


def render_link(target: str, target_id: int, text: object) -> str:
    """Link to the page of what is named, such as an order or an account; plain text when there is none."""
    page = _PAGES.get(target)
    if page is None or not target_id:
        return str(text)
    return format_html('<a href="{}">{}</a>', reverse(f"admin:counterfoil_{page}_change", args=[target_id]), text)


def audit_address(page: str, object_id: str) -> str:
    """Return the address of the audit entries of the row that a page shows."""
    target = next((name for name, known in _PAGES.items() if known == page), page)
    query = urlencode({"target__exact": target, "q": object_id})
    return f"{reverse('admin:counterfoil_auditentry_changelist')}?{query}"


def render_actor(actor: str) -> str:
    """Link `user:5` to that account; other actors, such as `system`, have no page."""
    kind, _, number = actor.partition(":")
    ids = parse_ids(number)
    return render_link(kind, ids[0], actor) if ids else actor


def render_changes(changes: dict[str, Any] | None) -> str | None:
    """Show what changed as a table of columns with their values before and after; hashes are shortened."""
    if not changes:
        return None
    rows = format_html_join(
        "",
        "<tr><th>{}</th><td>{}</td><td>{}</td></tr>",
        ((name, *_before_and_after(values)) for name, values in sorted(changes.items())),
    )
    return format_html("<table><thead><tr><th>Column</th><th>Before</th><th>After</th></tr></thead>{}</table>", rows)


def _before_and_after(values: Any) -> tuple[str, str]:
    # Entries of the first release hold other things than pairs.
    pair = values if isinstance(values, list) and len(values) == 2 else [None, values]  # noqa: PLR2004 - before, after
    before, after = (_value(value) for value in pair)
    return before, after


def _value(value: Any) -> str:
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return f"{text[:_HASH_CHARS_SHOWN]}…" if text.startswith("sha256:") else text


def render_hash(value: bytes | None) -> str | None:
    """Write a hash as hexadecimal digits."""
    return None if value is None else bytes(value).hex()


def parse_ids(text: str) -> list[int]:
    """Read an id from an address or an actor: one id, or none when the text is not one that fits BIGINT."""
    return [int(text)] if text.isascii() and text.isdigit() and len(text) <= _BIGINT_DIGITS_MAX else []
