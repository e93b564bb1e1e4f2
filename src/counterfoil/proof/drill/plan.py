"""What the clients of a drill will do, and what goes wrong: a pure function of the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

GOOD_CARDS: Final = ("pm_card_visa", "pm_card_mastercard", "pm_card_amex")
BAD_CARDS: Final = (
    "pm_card_visa_chargeDeclined",
    "pm_card_visa_chargeDeclinedInsufficientFunds",
    "pm_card_chargeDeclinedExpiredCard",
)
SUBMISSIONS_MAX: Final = 3
QUANTITY_MAX: Final = 3

# The mix of the goal: a call in five goes wrong.
FAULTS: Final[dict[str, float]] = {
    "charge_then_hang": 0.05,
    "hang_before_charge": 0.05,
    "error_500_half_charged": 0.05,
    "rate_limited": 0.03,
    "in_flight": 0.02,
    "reset_mid_body": 0.02,
    "broken_json": 0.01,
}
# Notices come twice, late and out of order, some before the answer, some never.
NOTICES: Final[dict[str, float]] = {
    "webhook_copies": 5,
    "webhook_early": 0.10,
    "webhook_never": 0.01,
    "webhook_delay_seconds": 3.0,
    "webhook_retry_seconds": 0.5,
}


class Sequel(StrEnum):
    """What comes after the payment, or beside it."""

    NOTHING = "nothing"
    REFUND = "refund"
    CANCEL_WHILE_PAYING = "cancel_while_paying"
    CANCEL_AFTERWARDS = "cancel_afterwards"


@dataclass(frozen=True, slots=True)
class Attempt:
    """One order and its payment. `at_once` submissions of one key go out together, else one after the other.

    `bad_card` is tried first, and declined; `hold_first` lets staff take the money in a second step.
    """

    number: int
    quantity: int
    card: str
    bad_card: str
    submissions: int
    at_once: bool
    hold_first: bool
    sequel: Sequel


def draw_attempts(count: int, *, seed: int) -> Iterator[Attempt]:
    """Yield the attempts of a seed, always the same ones."""
    for number in range(1, count + 1):
        draw = random.Random(f"attempt:{seed}:{number}")  # noqa: S311 - repeatable, not secret
        sequels = (Sequel.NOTHING, Sequel.REFUND, Sequel.CANCEL_WHILE_PAYING, Sequel.CANCEL_AFTERWARDS)
        yield Attempt(
            number=number,
            quantity=draw.randint(1, QUANTITY_MAX),
            card=draw.choice(GOOD_CARDS),
            bad_card=draw.choice(BAD_CARDS) if draw.random() < 0.05 else "",  # noqa: PLR2004 - a card in twenty
            submissions=draw.randint(1, SUBMISSIONS_MAX),
            at_once=draw.random() < 0.5,  # noqa: PLR2004 - half of them
            hold_first=draw.random() < 0.15,  # noqa: PLR2004 - some
            sequel=draw.choices(sequels, weights=(76, 14, 5, 5))[0],
        )


def fault_words(*, hang_seconds: float) -> dict[str, Any]:
    """Return the fault plan as the simulator reads it."""
    return {**FAULTS, **NOTICES, "hang_seconds": hang_seconds, "retry_after_seconds": 1}


# What a simulator is told when the drill is over: no more faults, and notices go out at once.
HEALED: Final[dict[str, Any]] = {"webhook_retry_seconds": 0.5}
