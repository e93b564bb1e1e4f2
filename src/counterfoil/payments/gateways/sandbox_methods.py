"""The sandbox's payment methods: one for every outcome that a gateway can have."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Behaviour(Enum):
    """What happens to a payment with this method."""

    APPROVE = "the money is held"
    DECLINE = "it is refused for good"
    ASK_BUYER = "the buyer has to authenticate first"
    LOSE_ANSWER_ONCE = "the money is held, the first answer is lost, a repetition is answered"
    LOSE_ANSWER = "the money is held, and no answer ever arrives"
    HANG = "nothing is done, and no answer ever arrives"
    UNREACHABLE = "no connection comes about"
    LIMIT_ONCE = "the first call is turned away, a repetition is answered"
    RUN_ONCE = "the first call is told that it is being executed, a repetition is answered"
    REJECT = "the call itself is refused, as if it were malformed"


@dataclass(frozen=True, slots=True)
class SandboxMethod:
    """A payment method by what it does; `code` says why it declines."""

    behaviour: Behaviour
    code: str = ""


# The first eight have the names of Stripe's own test methods, so a demonstration works on both gateways.
METHODS: Final[dict[str, SandboxMethod]] = {
    "pm_card_visa": SandboxMethod(Behaviour.APPROVE),
    "pm_card_visa_chargeDeclined": SandboxMethod(Behaviour.DECLINE, "generic_decline"),
    "pm_card_visa_chargeDeclinedInsufficientFunds": SandboxMethod(Behaviour.DECLINE, "insufficient_funds"),
    "pm_card_visa_chargeDeclinedLostCard": SandboxMethod(Behaviour.DECLINE, "lost_card"),
    "pm_card_chargeDeclinedExpiredCard": SandboxMethod(Behaviour.DECLINE, "expired_card"),
    "pm_card_chargeDeclinedIncorrectCvc": SandboxMethod(Behaviour.DECLINE, "incorrect_cvc"),
    "pm_card_chargeDeclinedProcessingError": SandboxMethod(Behaviour.DECLINE, "processing_error"),
    "pm_card_authenticationRequired": SandboxMethod(Behaviour.ASK_BUYER),
    "pm_sandbox_answer_lost_once": SandboxMethod(Behaviour.LOSE_ANSWER_ONCE),
    "pm_sandbox_answer_lost": SandboxMethod(Behaviour.LOSE_ANSWER),
    "pm_sandbox_hanging": SandboxMethod(Behaviour.HANG),
    "pm_sandbox_unreachable": SandboxMethod(Behaviour.UNREACHABLE),
    "pm_sandbox_rate_limited_once": SandboxMethod(Behaviour.LIMIT_ONCE),
    "pm_sandbox_running_once": SandboxMethod(Behaviour.RUN_ONCE),
    "pm_sandbox_rejected": SandboxMethod(Behaviour.REJECT),
}
