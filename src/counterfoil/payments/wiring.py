"""The gateways of this process, made once from the settings."""

from __future__ import annotations

import functools

from django.conf import settings

from counterfoil.infrastructure.metrics import DependencyMetrics
from counterfoil.payments.gateways.registry import GatewayConfig, Gateways, make_gateway
from counterfoil.payments.gateways.resilient import ResilientGateway


@functools.cache
def gateways() -> Gateways:
    """Return the gateways that the settings name, each with its retries, breaker and bulkhead."""
    return _make(observed_as="{}")


@functools.cache
def gateways_for_lists() -> Gateways:
    """Return the same gateways with breakers and bulkheads of their own.

    Reading long lists must not take the slots of payments, nor tell their breaker that all is well.
    """
    return _make(observed_as="{}-lists")


def _make(*, observed_as: str) -> Gateways:
    values = settings.COUNTERFOIL
    config = GatewayConfig(
        callback_secrets=values.callback_secrets,
        sandbox_journal=values.sandbox_journal,
        stripe_key=values.counterfoil_stripe_key.get_secret_value(),
        stripe_url=values.counterfoil_stripe_url,
        stripe_ca_file=values.counterfoil_stripe_ca_file or None,
    )
    made = {
        name: ResilientGateway(make_gateway(name, config), observer=DependencyMetrics(observed_as.format(name)))
        for name in values.gateway_names
    }
    return Gateways(made, primary=values.counterfoil_gateway, fallback=values.counterfoil_gateway_fallback)
