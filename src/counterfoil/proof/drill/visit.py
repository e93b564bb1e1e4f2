"""Visits a service that is not ours: makes sure that its gateway is the simulator, and puts something up for sale."""

from __future__ import annotations

import secrets
import tempfile
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final

from counterfoil.proof.drill.clients import Shop
from counterfoil.proof.drill.door import API_PATH, Door, DrillFailed, Traffic
from counterfoil.proof.drill.ledger import ClientLedger
from counterfoil.proof.drill.plan import HEALED
from counterfoil.proof.drill.site import Site, control

_STOCK: Final = 1_000_000
_PROBE_SECONDS_MAX: Final = 30.0


def visit_site(url: str, simulator_url: str, token: str, *, run: str, on_progress: Callable[[str], None]) -> Site:
    """Put a product up for sale at a running service, and pay one order to see where the money goes.

    `token` is an administrator's, who buys for themselves. Raises DrillFailed with the next step.
    """
    on_progress("Looking for the simulator")
    control(simulator_url, "PUT", "faults", HEALED)
    before = control(simulator_url, "GET", "state")["payments"]
    with tempfile.TemporaryDirectory(prefix="counterfoil-drill-") as directory:
        ledger = ClientLedger(Path(directory) / "probe.jsonl")
        try:
            door = Door(url, ledger=ledger, traffic=Traffic())
            on_progress("Putting a product up for sale")
            product_id = _make_product(door, token)
            on_progress("Paying one order, to see where the money goes")
            _pay_once(door, token, product_id)
        finally:
            ledger.close()
    deadline = time.monotonic() + _PROBE_SECONDS_MAX
    while control(simulator_url, "GET", "state")["payments"] == before:
        if time.monotonic() > deadline:
            raise DrillFailed(
                f"A payment at {url} did not reach the simulator at {simulator_url}; start the service with"
                " COUNTERFOIL_GATEWAY=stripe, COUNTERFOIL_STRIPE_URL and COUNTERFOIL_STRIPE_KEY of that simulator"
                " (docs: Run a drill)."
            )
        time.sleep(0.2)
    shop = Shop(lambda _: (token, None), token, product_id, run)
    return Site(url, simulator_url, shop, Path())


def _make_product(door: Door, token: str) -> int:
    name = secrets.token_hex(4)
    body = {"sku": f"DRILL-{name}", "name": "Drill", "price": "19.99", "currency": "EUR"}
    reply = door.post(f"{API_PATH}/products", token, body, key=f"drill-product-{name}")
    if reply.status != HTTPStatus.CREATED:
        raise DrillFailed(
            f"No product could be made ({reply.status} {reply.code}); --token must be an administrator's."
        )
    product_id = int(reply.fields["id"])
    stock = {"kind": "receipt", "quantity": _STOCK}
    reply = door.post(f"{API_PATH}/inventory/{product_id}/movements", token, stock, key=f"drill-stock-{name}")
    if reply.status != HTTPStatus.CREATED:
        raise DrillFailed(f"The product could not be stocked ({reply.status} {reply.code}).")
    return product_id


def _pay_once(door: Door, token: str, product_id: int) -> None:
    name = secrets.token_hex(8)
    items = {"items": [{"product_id": product_id, "quantity": 1}]}
    order = door.post(f"{API_PATH}/orders", token, items, key=f"drill-probe-{name}")
    path = f"{API_PATH}/orders/{order.fields.get('id')}/payments"
    reply = door.post(path, token, {"method": "pm_card_visa"}, key=f"drill-probe-pay-{name}")
    if reply.status not in {HTTPStatus.CREATED, HTTPStatus.ACCEPTED}:
        raise DrillFailed(f"A payment was answered {reply.status} {reply.code}; is the service's worker running?")
