"""Settings of what happens to an order after it was placed."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings


class OrderSettings(BaseSettings):
    """Windows in an order's life, counted by the database's clock from the event that opens them."""

    counterfoil_cancel_minutes: int = Field(
        60, ge=0, le=10_080, description="How long a customer may cancel a confirmed order of which nothing is shipped."
    )
    counterfoil_return_days: int = Field(
        14, ge=0, le=365, description="How long a customer may ask for a return after everything was shipped."
    )
