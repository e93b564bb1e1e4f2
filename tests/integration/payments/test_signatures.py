"""How long the check of a notice's signature takes tells nothing about the signature (WH-04)."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from counterfoil.payments.gateways.base import Callback, CallbackRejected, PaymentGateway
from counterfoil.payments.gateways.sandbox import SandboxGateway
from counterfoil.payments.gateways.stripe import StripeGateway

SECRET = "callback-secret-of-the-tests"
SAMPLES = 10_000


def sandbox() -> tuple[PaymentGateway, bytes, str, str]:
    """A gateway, a notice, the name of its header, and the header of a genuine signature."""
    gateway = SandboxGateway(callback_secrets=[SECRET])
    body, headers = gateway.make_callback(Callback("evt-1", "payment.updated", datetime.now(UTC)))
    [(name, header)] = headers.items()
    return gateway, body, name, header


def stripe_gateway() -> tuple[PaymentGateway, bytes, str, str]:
    import stripe

    body, now = b'{"id":"evt_1"}', int(time.time())
    signature = stripe.WebhookSignature._compute_signature(f"{now}.{body.decode()}", SECRET)  # noqa: SLF001
    return (
        StripeGateway(api_key="key", callback_secrets=[SECRET]),
        body,
        "stripe-signature",
        f"t={now},v1={signature}",
    )


def flipped(header: str, position: int) -> str:
    """The header with one hexadecimal digit of its signature replaced."""
    start = header.index("v1=") + 3
    at = start + position
    return header[:at] + ("0" if header[at] != "0" else "1") + header[at + 1 :]


@pytest.mark.parametrize("make", [sandbox, stripe_gateway])
def test_security_WH_04_a_signature_is_compared_in_constant_time(
    make: Callable[[], tuple[PaymentGateway, bytes, str, str]],
) -> None:
    gateway, body, name, header = make()
    wrong_at_once, wrong_at_the_end = flipped(header, 0), flipped(header, 63)
    seconds: dict[str, list[int]] = {wrong_at_once: [], wrong_at_the_end: []}

    # In turns, so that a busy machine slows both alike.
    for _ in range(SAMPLES):
        for given, taken in seconds.items():
            began = time.perf_counter_ns()
            with pytest.raises(CallbackRejected) as refusal:
                gateway.parse_callback(body, {name: given})
            taken.append(time.perf_counter_ns() - began)
            assert refusal.value.code == "forged"

    first, last = (statistics.median(taken) for taken in seconds.values())
    assert abs(first - last) < 0.1 * min(first, last), (first, last)
