"""Steps in an order's life on the wire."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from counterfoil.api.schemas.fields import OptionalLine

Reason = Annotated[OptionalLine, Meta(description="Why; kept in the audit trail, so without personal data.")]


class ConfirmIn(Struct, forbid_unknown_fields=True, frozen=True):
    """An approval on terms."""

    reason: Reason = ""
