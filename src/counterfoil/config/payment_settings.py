"""Environment to settings: what payments need to know."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings

# A signature is as good as its secret: shorter ones can be tried out against one notice.
CALLBACK_SECRET_CHARS_MIN: Final = 16
# The names in payments/gateways/registry.py, which settings cannot import; a test compares.
GATEWAY_NAMES: Final = ("sandbox", "stripe")


class PaymentSettings(BaseSettings):
    """The part of the settings that is about payments."""

    counterfoil_gateway: str = Field("sandbox", description="Where payments are made: `sandbox` or `stripe`.")
    counterfoil_gateway_fallback: str = Field(
        "", description="Gateway that is asked when the first one was certainly not; empty: none."
    )
    counterfoil_stripe_key: SecretStr = Field(SecretStr(""), description="Secret key of the account at Stripe.")
    counterfoil_stripe_url: str = Field(
        "", description="Another server that speaks as Stripe does, such as `counterfoil gateway-simulator`."
    )
    counterfoil_stripe_ca_file: str = Field("", description="Certificates to believe in for that server.")
    counterfoil_callback_secrets: SecretStr = Field(
        SecretStr(""),
        description="Secrets that sign gateways' notices, separated by commas: each is believed, so that one can be"
        " replaced. Stripe needs one. Without any, no notice is believed.",
    )
    counterfoil_sandbox_journal: str = Field(
        "", description="File of the sandbox's pretended money, shared by all processes; empty: each has its own."
    )
    counterfoil_resolver_speed: float = Field(
        1.0, ge=1, le=10_000, description="Divides the waits before open payments are looked at; demo mode only."
    )
    counterfoil_failpoints: str = Field(
        "", description="Points at which a process kills itself, for tests; demo mode only."
    )

    @property
    def callback_secrets(self) -> tuple[str, ...]:
        """Every secret whose signature under a notice is believed."""
        pieces = self.counterfoil_callback_secrets.get_secret_value().split(",")
        return tuple(secret.strip() for secret in pieces if secret.strip())

    @property
    def sandbox_journal(self) -> Path | None:
        """The sandbox's file, if it has one."""
        return Path(self.counterfoil_sandbox_journal) if self.counterfoil_sandbox_journal else None

    @property
    def gateway_names(self) -> tuple[str, ...]:
        """The gateways in use, the first one first."""
        return tuple(dict.fromkeys(filter(None, (self.counterfoil_gateway, self.counterfoil_gateway_fallback))))

    @model_validator(mode="after")
    def _can_take_payments(self) -> Self:
        """Refuse to start with a gateway that could not be asked, or whose notices everybody could write."""
        for name in self.gateway_names:
            if name not in GATEWAY_NAMES:
                raise ValueError(f"there is no payment gateway {name!r}; known are: {', '.join(GATEWAY_NAMES)}")
        if "stripe" in self.gateway_names:
            if not self.counterfoil_stripe_key.get_secret_value():
                raise ValueError("COUNTERFOIL_GATEWAY=stripe needs COUNTERFOIL_STRIPE_KEY")
            if not self.callback_secrets:
                raise ValueError("COUNTERFOIL_GATEWAY=stripe needs COUNTERFOIL_CALLBACK_SECRETS, the endpoint's secret")
        if any(len(secret) < CALLBACK_SECRET_CHARS_MIN for secret in self.callback_secrets):
            raise ValueError(
                f"each of COUNTERFOIL_CALLBACK_SECRETS must have at least {CALLBACK_SECRET_CHARS_MIN} characters"
            )
        return self

    @model_validator(mode="after")
    def _plays_only_in_the_demo(self) -> Self:
        """Refuse what is made for tests outside of the demo."""
        if not getattr(self, "counterfoil_demo", False):
            if self.counterfoil_resolver_speed != 1:
                raise ValueError("COUNTERFOIL_RESOLVER_SPEED above 1 is for demo mode")
            if self.counterfoil_failpoints:
                raise ValueError("COUNTERFOIL_FAILPOINTS is for demo mode")
        return self
