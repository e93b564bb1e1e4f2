"""Which gateways there are: one line for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from counterfoil.payments.gateways.base import PaymentGateway, Unreachable
from counterfoil.payments.gateways.sandbox import SandboxGateway

DEFAULT: Final = "sandbox"


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """What gateways need to know; each takes its part.

    `callback_secrets` sign notices: every one is believed. `sandbox_journal` is the file that processes share, without
    it the sandbox lives in one process. `stripe_url` names another server that speaks as Stripe does.
    """

    callback_secrets: tuple[str, ...] = ()
    sandbox_journal: Path | None = None
    stripe_key: str = ""
    stripe_url: str = ""
    stripe_ca_file: str | None = None


def _make_sandbox(config: GatewayConfig) -> PaymentGateway:
    return SandboxGateway(journal=config.sandbox_journal, callback_secrets=config.callback_secrets)


def _make_stripe(config: GatewayConfig) -> PaymentGateway:
    # Its library is large; who pays in the sandbox does not load it.
    from counterfoil.payments.gateways.stripe import StripeGateway

    return StripeGateway(
        api_key=config.stripe_key,
        callback_secrets=config.callback_secrets,
        api_url=config.stripe_url,
        ca_file=config.stripe_ca_file,
    )


GATEWAYS: Final[dict[str, Callable[[GatewayConfig], PaymentGateway]]] = {
    "sandbox": _make_sandbox,
    "stripe": _make_stripe,
}


def make_gateway(name: str, config: GatewayConfig) -> PaymentGateway:
    """Make a gateway by its name; raises ValueError that names the known ones."""
    if name not in GATEWAYS:
        raise ValueError(f"there is no payment gateway {name!r}; known are: {', '.join(sorted(GATEWAYS))}")
    return GATEWAYS[name](config)


@dataclass(frozen=True, slots=True)
class Gateways:
    """The gateways of one process: each by its name, which one is asked first, and which one instead (empty: none)."""

    by_name: Mapping[str, PaymentGateway]
    primary: str
    fallback: str = ""

    def named(self, name: str) -> PaymentGateway:
        """Return a gateway; one that is no longer configured is as good as unreachable."""
        if name not in self.by_name:
            raise Unreachable("gateway_not_configured", gateway=name)
        return self.by_name[name]
