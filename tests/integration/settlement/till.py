"""A shop that takes money: what tests of payments over HTTP have in their hands."""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import httpx
import psycopg

from conftest import Service, run_counterfoil, running_service, running_worker

T = TypeVar("T")
CALLBACK_SECRET = "callback-secret-of-the-tests"


def fresh_key() -> dict[str, str]:
    return {"Idempotency-Key": secrets.token_hex(16)}


def wait_until(look: Callable[[], T | None], *, seconds: float = 20) -> T:
    """Look until there is something to see."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.02)
    return found


class Till:
    """One shop with an administrator and a customer, and its sandbox's journal as the truth about money."""

    # Looks of the resolver after 10 s come after 10 ms.
    ENVIRONMENT: ClassVar[dict[str, str]] = {
        "COUNTERFOIL_RESOLVER_SPEED": "1000",
        "COUNTERFOIL_CALLBACK_SECRETS": CALLBACK_SECRET,
    }

    def __init__(
        self, service: Service, make_token: Callable[..., str], directory: Path, environment: dict[str, str]
    ) -> None:
        self.service = service
        self.directory = directory
        self.environment = environment
        self.db = psycopg.connect(service.database_url, autocommit=True)
        self._make_token = make_token
        self.admin = self.client("admin")
        self.customer = self.client("customer")

    def close(self) -> None:
        for each in (self.admin, self.customer, self.db):
            each.close()

    def client(self, role: str) -> httpx.Client:
        return self.service.client(self._make_token(role, database_url=self.service.database_url))

    # ------------------------------------------------------------ orders
    def product(self, *, stock: int = 100, price: str = "20.00") -> int:
        body = {"sku": f"T-{secrets.token_hex(6)}", "name": "Tea", "price": price, "currency": "EUR"}
        answer = self.admin.post("/api/v1/products", json=body)
        assert answer.status_code == 201, answer.text
        product_id = int(answer.json()["id"])
        movement = {"kind": "receipt", "quantity": stock}
        answer = self.admin.post(f"/api/v1/inventory/{product_id}/movements", json=movement, headers=fresh_key())
        assert answer.status_code == 201, answer.text
        return product_id

    def order(self, *, product: int | None = None, price: str = "20.00", quantity: int = 2) -> int:
        product = product or self.product(price=price)
        body = {"items": [{"product_id": product, "quantity": quantity}]}
        answer = self.customer.post("/api/v1/orders", json=body, headers=fresh_key())
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    def read(self, order_id: int) -> dict[str, Any]:
        found: dict[str, Any] = self.admin.get(f"/api/v1/orders/{order_id}").json()
        return found

    def axes(self, order_id: int) -> tuple[str, str]:
        found = self.read(order_id)
        return found["status"], found["payment_status"]

    def events(self, order_id: int) -> list[str]:
        """Types of an order's events after it was placed."""
        found = self.admin.get(f"/api/v1/orders/{order_id}/timeline").json()["events"]
        return [event["type"] for event in found][1:]

    def stock(self, order_id: int) -> list[tuple[int, int, int]]:
        """(on hand, reserved, allocated) of each of an order's products."""
        return self.db.execute(
            "SELECT s.on_hand, s.reserved, s.allocated FROM stock_levels s JOIN order_items i USING (product_id)"
            " WHERE i.order_id = %s ORDER BY i.line_no",
            [order_id],
        ).fetchall()

    # ------------------------------------------------------------ time
    def look_now(self) -> None:
        """Let the time pass until every open call is looked at again, or its worker's lease is over."""
        self.db.execute("UPDATE payment_attempts SET next_at = now() WHERE next_at IS NOT NULL")

    def worker(self, **more: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
        """Run one more worker."""
        return running_worker(self.service.database_url, self.directory, **{**self.environment, **more})

    def web(self, **more: str) -> AbstractContextManager[Service]:
        """Run one more web process."""
        return running_service(self.service.database_url, self.directory, **{**self.environment, **more})

    # ------------------------------------------------------------ money
    def pay(
        self, order_id: int, method: str = "pm_card_visa", *, headers: dict[str, str] | None = None, **body: Any
    ) -> httpx.Response:
        return self.customer.post(
            f"/api/v1/orders/{order_id}/payments", json={"method": method, **body}, headers=headers or fresh_key()
        )

    def payments(self, order_id: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.admin.get(f"/api/v1/orders/{order_id}/payments").json()["items"]
        return found

    def refunds(self, order_id: int) -> list[tuple[str, str, bool]]:
        """(status, amount, automatic) of every refund of an order."""
        return self.db.execute(
            "SELECT status, amount::numeric(19, 2)::text, automatic FROM refunds WHERE order_id = %s ORDER BY id",
            [order_id],
        ).fetchall()

    def act(self, payment_id: int, action: str, body: Any = None) -> httpx.Response:
        return self.admin.post(f"/api/v1/payments/{payment_id}/{action}", json=body, headers=fresh_key())

    def _journal(self) -> list[str]:
        """The sandbox's journal; there is none before it was first asked."""
        path = Path(self.environment["COUNTERFOIL_SANDBOX_JOURNAL"])
        return path.read_text().splitlines() if path.exists() else []

    def charges(self, order_id: int) -> list[tuple[str, int]]:
        """(status, captured) of every payment that the sandbox has for an order; its journal is the truth."""
        latest: dict[str, tuple[str, int]] = {}
        for text in self._journal():
            payment = json.loads(text).get("payment")
            if payment and payment["reference"].startswith(f"o{order_id}-"):
                latest[payment["payment_id"]] = payment["status"], payment["captured"]["amount_minor"]
        return list(latest.values())

    def given_back(self, order_id: int) -> list[int]:
        """What the sandbox has given back for an order, refund by refund; its journal is the truth."""
        ids, found = set(), []
        for text in self._journal():
            line = json.loads(text)
            if (payment := line.get("payment")) and payment["reference"].startswith(f"o{order_id}-"):
                ids.add(payment["payment_id"])
            if (refund := line.get("refund")) and refund["payment_id"] in ids:
                found.append(refund["amount"]["amount_minor"])
        return found

    def require_identities(self) -> None:
        """Every identity of the domain holds in the shop's database."""
        report = run_counterfoil("reconcile", check=False, DATABASE_URL=self.service.database_url)
        assert report.returncode == 0, report.stdout + report.stderr


@contextmanager
def open_till(
    database_url: str,
    make_token: Callable[..., str],
    directory: Path,
    *,
    worker: bool = True,
    port: int | None = None,
    **more: str,
) -> Iterator[Till]:
    """Run a shop of its own: database, web process, worker and a sandbox that all of its processes share."""
    environment = {"COUNTERFOIL_SANDBOX_JOURNAL": str(directory / "sandbox.jsonl"), **Till.ENVIRONMENT, **more}
    with ExitStack() as stack:
        service = stack.enter_context(running_service(database_url, directory, port=port, **environment))
        if worker:
            stack.enter_context(running_worker(database_url, directory, **environment))
        shop = Till(service, make_token, directory, environment)
        yield shop
        shop.close()
    shop.require_identities()
