"""The one shape of every error."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct


class ErrorMember(Struct, frozen=True):
    """What went wrong: a stable code, a sentence, and what it is about."""

    code: Annotated[str, Meta(examples=["INSUFFICIENT_INVENTORY"])]
    message: Annotated[str, Meta(examples=["Product 456 has only 2 units available"])]
    details: Annotated[dict[str, Any], Meta(examples=[{"product_id": 456, "requested": 5, "available": 2}])]


class Problem(Struct, frozen=True):
    """RFC 9457 problem details with the members `error` and `request_id`."""

    type: Annotated[str, Meta(examples=["/errors/insufficient-inventory"])]
    title: str
    status: int
    error: ErrorMember
    request_id: Annotated[str, Meta(examples=["req-1f0c5a7e9b3d2c48"])]
