from __future__ import annotations

import pytest

from conftest import run_counterfoil

STRIPE = {"COUNTERFOIL_GATEWAY": "stripe", "COUNTERFOIL_STRIPE_KEY": "key-of-a-test"}


@pytest.mark.parametrize("command", ["serve", "work"])
def test_security_WH_02_nothing_starts_with_a_gateway_whose_notices_everybody_could_write(command: str) -> None:
    ended = run_counterfoil(command, check=False, DATABASE_URL="postgresql://127.0.0.1:1/x", **STRIPE)

    assert ended.returncode == 1
    assert "COUNTERFOIL_GATEWAY=stripe needs COUNTERFOIL_CALLBACK_SECRETS" in " ".join(ended.stderr.split())


def test_failpoints_start_nothing_outside_of_demo_mode() -> None:
    values = {"COUNTERFOIL_DEMO": "0", "COUNTERFOIL_FAILPOINTS": "claim.begun"}

    ended = run_counterfoil("work", check=False, DATABASE_URL="postgresql://127.0.0.1:1/x", **values)

    assert ended.returncode == 1
    assert "COUNTERFOIL_FAILPOINTS is for demo mode" in " ".join(ended.stderr.split())


@pytest.mark.usefixtures("django_ready")
def test_a_process_makes_its_gateways_once_and_from_the_settings() -> None:
    from counterfoil.payments.gateways.resilient import ResilientGateway
    from counterfoil.payments.wiring import gateways

    made = gateways()

    assert (made.primary, made.fallback, sorted(made.by_name)) == ("sandbox", "", ["sandbox"])
    assert isinstance(made.named("sandbox"), ResilientGateway)
    assert gateways() is made
