"""What stands in a cell of the console: amounts as people write them, and links to what is named."""

from __future__ import annotations

from decimal import Decimal
from typing import Final

from django.urls import reverse
from django.utils.html import format_html

from counterfoil.kernel.money import Money

# What an audit entry or an actor can name, and the page that shows it.
_PAGES: Final = {"order": "order", "product": "product", "user": "user"}
_BIGINT_DIGITS_MAX: Final = 18


def render_amount(amount: Decimal, currency: str, quantity: int = 1) -> str:
    """Write an amount with the digits of its currency: `29.80 EUR`; with `quantity`, that many times the amount."""
    return str(Money.from_decimal(amount, currency) * quantity)


def render_link(target: str, target_id: int, text: object) -> str:
    """Link to the page of an order, a product or an account; plain text when there is none."""
    page = _PAGES.get(target)
    if page is None:
        return str(text)
    return format_html('<a href="{}">{}</a>', reverse(f"admin:counterfoil_{page}_change", args=[target_id]), text)


def render_actor(actor: str) -> str:
    """Link `user:5` to that account; other actors, such as `system`, have no page."""
    kind, _, number = actor.partition(":")
    ids = parse_ids(number)
    return render_link(kind, ids[0], actor) if ids else actor


def parse_ids(text: str) -> list[int]:
    """Read an id from an address or an actor: one id, or none when the text is not one that fits BIGINT."""
    return [int(text)] if text.isascii() and text.isdigit() and len(text) <= _BIGINT_DIGITS_MAX else []
