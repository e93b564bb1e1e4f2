"""The service against its own description: generated requests, good and bad, of everybody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

EXAMPLES_PER_MODE = 10  # of valid requests, and as many of invalid ones, per operation and identity
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
GENERATED = settings(
    max_examples=EXAMPLES_PER_MODE,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def operations(service: Any) -> list[Any]:
    """Every operation of the description that the running service serves."""
    description = schemathesis.openapi.from_url(f"{service.url}/docs/openapi.json")
    found = [operation.ok() for operation in description.get_all_operations()]
    # Whoever has erased themselves is nobody any more.
    return sorted(found, key=lambda operation: operation.label == "DELETE /api/v1/users/me")


def exercise(operation: Any, mode: GenerationMode, headers: dict[str, str]) -> None:
    """Send generated requests; raise what does not match the description. A stranger is kept out where it says so."""

    @GENERATED
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Any) -> None:
        refused = [negative_data_rejection] if mode is GenerationMode.NEGATIVE else []
        answer = case.call_and_validate(headers=headers, checks=[*CHECKS, *refused])
        if not headers and operation.definition.raw["security"] and {} not in operation.definition.raw["security"]:
            assert answer.status_code in {401, 404, 405, 415}, answer.text

    send()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: str(mode.value))
@pytest.mark.parametrize("role", [None, "customer", "admin"])
def test_every_answer_is_one_that_is_described(
    operations: list[Any],
    make_token: Callable[..., str],
    customer: httpx.Client,
    make_product: Callable[..., int],
    role: str | None,
    mode: GenerationMode,
) -> None:
    # So that lists and answers have something in them, whichever test runs first.
    order = {"items": [{"product_id": make_product(), "quantity": 1}]}
    assert customer.post("/api/v1/orders", json=order).status_code == 201
    headers = {} if role is None else {"Authorization": f"Bearer {make_token(role)}"}
    failures: list[str] = []

    for operation in operations:
        if mode is GenerationMode.NEGATIVE and not (list(operation.iter_parameters()) or operation.body):
            continue  # there is nothing to get wrong
        try:
            exercise(operation, mode, headers)
        except (AssertionError, ExceptionGroup) as failure:
            failures.append(f"{operation.label}: {failure!r}")

    assert failures == []
