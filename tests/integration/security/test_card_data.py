"""LUHN: no card number enters, in no text of no body, and none is repeated in the refusal."""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import httpx
import msgspec
import psycopg
import pytest

from conftest import Service

CARD = "4111 1111 1111 1111"
DIGITS = CARD.replace(" ", "")
Unchanged = Callable[[], AbstractContextManager[None]]
pytestmark = pytest.mark.usefixtures("django_ready")


@pytest.fixture(scope="module")
def bodies(django_ready: None) -> list[Any]:
    """Every schema that an endpoint reads: derived, so that a new one cannot be forgotten."""
    assert django_ready is None
    from counterfoil.api.app import make_api

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Litestar's advice about its next major version
        routes = make_api(state={}).routes
    handlers = [handler for route in routes for handler in getattr(route, "route_handlers", [])]
    return [handler.parsed_data_field.annotation for handler in handlers if handler.parsed_data_field is not None]


def test_security_LUHN_04_every_body_is_looked_at_and_passwords_alone_are_not(bodies: list[Any]) -> None:
    from counterfoil.api.card_data import free_text_fields

    fields = {schema.__name__: free_text_fields(schema) for schema in bodies}

    assert len(fields) >= 8
    assert fields["PlaceOrderIn"] == ["client_reference", "coupon_codes[]"]
    assert fields["ProductIn"] == ["category", "currency", "description", "name", "price", "sku", "tax_rate"]
    assert fields["MovementIn"] == ["reason"]
    assert "profile.address_line2" in fields["UpdateMeIn"]
    assert "password" not in {path for paths in fields.values() for path in paths}


def test_security_LUHN_05_every_text_of_every_body_is_refused_with_a_card_in_it(bodies: list[Any]) -> None:
    from counterfoil.api.card_data import CardNumberRefused, free_text_fields, refuse_card_numbers

    tried = 0
    for schema in bodies:
        for path in free_text_fields(schema):
            with pytest.raises(CardNumberRefused) as refused:
                refuse_card_numbers(schema, build(schema, path.split(".")))
            assert [entry["field"] for entry in refused.value.details["fields"]] == [path.replace("[]", "[0]")]
            assert DIGITS not in str(refused.value.details).replace(" ", "")
            tried += 1
    assert tried >= 30


def build(schema: Any, path: list[str]) -> Any:
    """Make an unchecked instance of a schema, or of a part of it, with the card in one place."""
    names = {field.name: field for field in msgspec.structs.fields(schema)}
    values: dict[str, Any] = dict.fromkeys(names)
    name = path[0].removesuffix("[]")
    inner: Any = CARD if len(path) == 1 else build(inner_struct(names[name].type), path[1:])
    values[name] = [inner] if path[0].endswith("[]") else inner
    return schema(**values)


def inner_struct(annotation: Any) -> Any:
    return next(kind for kind in walk(annotation) if isinstance(kind, type) and issubclass(kind, msgspec.Struct))


def walk(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from walk(inner)


@pytest.mark.parametrize("form", [DIGITS, CARD, CARD.replace(" ", "-"), f"card {CARD} please"])
def test_security_LUHN_06_over_http_it_is_refused_named_and_kept_nowhere(
    admin: httpx.Client,
    anonymous: httpx.Client,
    customer: httpx.Client,
    make_product: Callable[..., int],
    nothing_written: Unchanged,
    service: Any,
    form: str,
) -> None:
    product = make_product()
    person = {"email": f"{secrets.token_hex(6)}@example.com", "password": "correct horse battery"}
    ware = {"sku": "T-1", "name": "Tea", "price": "1.00", "currency": "EUR"}
    order = {"items": [{"product_id": product, "quantity": 1}]}
    key = {"Idempotency-Key": secrets.token_hex(16)}
    movement = {"kind": "receipt", "quantity": 1, "reason": form}
    reference = form.replace(" ", "-")

    with nothing_written():
        answers = {
            "name": anonymous.post("/api/v1/users", json={**person, "name": form}),
            "profile.address_line2": customer.put("/api/v1/users/me", json={"profile": {"address_line2": form}}),
            "description": admin.post("/api/v1/products", json={**ware, "description": f"{form}\n"}),
            "reason": admin.post(f"/api/v1/inventory/{product}/movements", json=movement, headers=key),
            "client_reference": customer.post("/api/v1/orders", json={**order, "client_reference": reference}),
            "q": customer.get("/api/v1/orders", params={"q": form}),
        }

    for field, answer in answers.items():
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["code"] == "CARD_NUMBER_REFUSED"
        assert [entry["field"] for entry in answer.json()["error"]["details"]["fields"]] == [field]
        assert "1111" not in answer.text
    assert DIGITS not in service.log_path.read_text().replace(" ", "").replace("-", "")


def test_a_password_may_have_digits(anonymous: httpx.Client) -> None:
    person = {"email": f"{secrets.token_hex(6)}@example.com", "name": "Ada", "password": f"pass {CARD} word"}

    assert anonymous.post("/api/v1/users", json=person).status_code == 201


def test_references_and_keys_made_by_machines_pass(
    customer: httpx.Client, make_product: Callable[..., int], db: psycopg.Connection[Any]
) -> None:
    product = make_product()
    references = ["1736937000123456", "00000000-1111-4111-8111-111111111111", "2025-01-15-103000", "PO-2025-000017"]

    statuses = [
        customer.post(
            "/api/v1/orders",
            json={"items": [{"product_id": product, "quantity": 1}], "client_reference": f"{reference}"},
            headers={"Idempotency-Key": DIGITS + str(number)},
        ).status_code
        for number, reference in enumerate(references)
    ]

    assert statuses == [201] * 4
    assert db.execute("SELECT count(*) FROM orders WHERE client_reference = ANY(%s)", [references]).fetchone() == (4,)


@pytest.mark.parametrize("request_id", ["4111111111111111", "req-4111-1111-1111-1111"])
def test_security_LUHN_05_a_request_id_that_holds_a_card_number_is_not_used(
    admin: httpx.Client, service: Service, db: psycopg.Connection[Any], request_id: str
) -> None:
    product = {"sku": f"T-{secrets.token_hex(4)}z", "name": "Tea", "price": "1.00", "currency": "EUR"}

    answer = admin.post("/api/v1/products", json=product, headers={"X-Request-ID": request_id})
    kept = admin.get("/livez", headers={"X-Request-ID": "my-own-id-7"})

    assert answer.status_code == 201
    assert answer.headers["x-request-id"].startswith("req-")
    assert answer.headers["x-request-id"] != request_id
    assert kept.headers["x-request-id"] == "my-own-id-7"
    assert request_id not in service.log_path.read_text()
    assert db.execute("SELECT count(*) FROM audit_entries WHERE request_id = %s", [request_id]).fetchone() == (0,)
