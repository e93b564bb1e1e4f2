"""Kinds of fields that bodies share, with their bounds."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from counterfoil.kernel.errors import ValidationFailed
from counterfoil.kernel.money import CURRENCY_DIGITS, Money

# BIGINT: what the database's ids can hold.
ID_MAX: Final = 2**63 - 1
# PostgreSQL's text cannot hold NUL, so no text of ours does.
_NO_NUL: Final = r"^[^\x00]*$"
# Python's `$` also matches before a last line feed; JSON Schema's does not.
END: Final = r"$(?!\n)"

Id = Annotated[int, Meta(ge=1, le=ID_MAX)]
Line = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f]*[^\x00-\x1f\s][^\x00-\x1f]*" + END)]
OptionalLine = Annotated[str, Meta(max_length=255, pattern=r"^[^\x00-\x1f]*" + END)]
Category = Annotated[str, Meta(max_length=120, pattern=r"^[^\x00-\x1f]*" + END)]
LongText = Annotated[str, Meta(max_length=10_000, pattern=_NO_NUL)]
Sku = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*" + END)]
CurrencyCode = Annotated[str, Meta(pattern=r"^[A-Z]{3}" + END, examples=["EUR"], description="ISO 4217 code.")]
Amount = Annotated[
    str,
    Meta(
        max_length=24,
        pattern=r"^[0-9]+(\.[0-9]+)?" + END,
        examples=["19.99"],
        description="Exact decimal text, so that no digit is lost on the way.",
    ),
]
Reference = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9._:/#-]+" + END,
        description="Your own number of the order; once per user.",
    ),
]
_instant: Final = Annotated[datetime, Meta(tz=True)]


def parse_money(amount: str, currency: str, *, field: str) -> Money:
    """Return exact money; raises ValidationFailed that names the field."""
    if currency not in CURRENCY_DIGITS:
        raise ValidationFailed([{"field": "currency", "message": f"{currency} is not an ISO 4217 currency code."}])
    try:
        return Money.parse(amount, currency)
    except ValueError as error:
        raise ValidationFailed([{"field": field, "message": f"{error}."}]) from error


def parse_instant(text: str | None, *, field: str) -> datetime | None:
    """Return an RFC 3339 instant with its zone; raises ValidationFailed for anything looser."""
    if text is None:
        return None
    try:
        # A `+` of an offset arrives as a space when the caller forgot to encode it; that is the only repair.
        instant: datetime = msgspec.convert(text.replace(" ", "+"), _instant)
        instant.astimezone()
    except (msgspec.ValidationError, OverflowError, ValueError) as error:
        message = "Write an instant with its zone, such as 2025-01-15T10:30:00Z."
        raise ValidationFailed([{"field": field, "message": message}]) from error
    return instant


def encode_body(value: Any) -> bytes:
    """Encode an answer: decimals as JSON numbers with exactly their digits, instants in UTC with `Z`."""
    return _encoder.encode(value)


_encoder: Final = msgspec.json.Encoder(decimal_format="number")
