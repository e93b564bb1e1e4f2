"""What can go wrong when somebody asks for their data or wants it gone."""

from __future__ import annotations

from counterfoil.kernel.errors import Conflict


class ExportTooLarge(Conflict):
    """The data has more than {orders_max} orders, too many for one answer; the shop's operators export it for you."""

    code = "EXPORT_TOO_LARGE"


class SweepRefused(Conflict):
    """{orphans} of {looked_at} keys have no account; make sure that DATABASE_URL and COUNTERFOIL_KEYS_URL match."""

    code = "SWEEP_REFUSED"
