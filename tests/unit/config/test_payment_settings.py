from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError
from pydantic_settings import SettingsConfigDict

from counterfoil.config.payment_settings import GATEWAY_NAMES, PaymentSettings
from counterfoil.payments.gateways.registry import GATEWAYS

STRIPE = {"counterfoil_gateway": "stripe", "counterfoil_stripe_key": "key-of-a-test"}
SECRETS = {"counterfoil_callback_secrets": "first-secret-of-a-test, second-secret-of-a-test"}


class Settings(PaymentSettings):
    """The part about payments alone: the whole is read once in a process, when its database is known."""

    model_config = SettingsConfigDict(extra="ignore")
    counterfoil_demo: bool = False


def settings(**values: Any) -> Settings:
    return Settings(**{"counterfoil_demo": True, **values})


def test_the_sandbox_needs_nothing_and_is_what_is_used() -> None:
    assert settings().gateway_names == ("sandbox",)
    assert settings().callback_secrets == ()
    assert settings().sandbox_journal is None


def test_the_settings_know_every_gateway() -> None:
    assert sorted(GATEWAY_NAMES) == sorted(GATEWAYS)


def test_security_WH_02_stripe_without_a_secret_for_its_notices_does_not_start() -> None:
    with pytest.raises(ValidationError, match="needs COUNTERFOIL_CALLBACK_SECRETS"):
        settings(**STRIPE)
    with pytest.raises(ValidationError, match="needs COUNTERFOIL_CALLBACK_SECRETS"):
        settings(**STRIPE, counterfoil_callback_secrets=" , ")
    with pytest.raises(ValidationError, match="needs COUNTERFOIL_CALLBACK_SECRETS"):
        settings(**{**STRIPE, "counterfoil_gateway": "sandbox", "counterfoil_gateway_fallback": "stripe"})
    with pytest.raises(ValidationError, match="at least 16 characters"):
        settings(**STRIPE, counterfoil_callback_secrets="first-secret-of-a-test,short")

    assert settings(**STRIPE, **SECRETS).callback_secrets == ("first-secret-of-a-test", "second-secret-of-a-test")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"counterfoil_gateway": "paypal"}, "no payment gateway 'paypal'"),
        ({"counterfoil_gateway_fallback": "paypal"}, "no payment gateway 'paypal'"),
        ({"counterfoil_gateway": "stripe", **SECRETS}, "needs COUNTERFOIL_STRIPE_KEY"),
        ({"counterfoil_demo": False, "counterfoil_resolver_speed": 2}, "COUNTERFOIL_RESOLVER_SPEED"),
        ({"counterfoil_demo": False, "counterfoil_failpoints": "claim.begun"}, "COUNTERFOIL_FAILPOINTS"),
        ({"counterfoil_resolver_speed": 0.5}, "greater than or equal to 1"),
    ],
)
def test_what_could_not_work_or_must_not_is_refused_at_the_start(values: dict[str, Any], message: str) -> None:
    secret = {"counterfoil_secret": "dG9vIHJhbmRvbSB0byBiZSBndWVzc2VkIQ8f3kz"}

    with pytest.raises(ValidationError, match=message):
        settings(**secret, **values)
