from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import httpx
import psycopg
import pytest


@pytest.fixture
def make_order(customer: httpx.Client, make_product: Callable[..., int]) -> Callable[[], int]:
    """Place an order of 40.00 EUR with the running service; returns its id."""

    def make() -> int:
        body = {"items": [{"product_id": make_product(price="20.00"), "quantity": 2}]}
        answer = customer.post("/api/v1/orders", json=body, headers={"Idempotency-Key": secrets.token_hex(16)})
        assert answer.status_code == 201, answer.text
        return int(answer.json()["id"])

    return make


@pytest.fixture
def desk(django_ready: None, make_order: Callable[[], int], db: psycopg.Connection[tuple[Any, ...]]) -> Any:
    """One order, a gateway and a worker: see desk.py."""
    from desk import Desk

    assert django_ready is None
    return Desk(make_order(), db)
