"""Payment methods that bring an outcome about, with Stripe's names for them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final


class Result(Enum):
    """What the issuer says."""

    APPROVED = 1
    DECLINED = 2
    ACTION = 3


@dataclass(frozen=True, slots=True)
class Card:
    """A test card: its last digits, the issuer's answer, and Stripe's two codes for a refusal."""

    last4: str
    result: Result = Result.APPROVED
    code: str = ""
    decline_code: str = ""


def _declined(last4: str, code: str, decline_code: str = "") -> Card:
    return Card(last4, Result.DECLINED, code, decline_code)


CARDS: Final[dict[str, Card]] = {
    "pm_card_visa": Card("4242"),
    "pm_card_visa_debit": Card("5556"),
    "pm_card_mastercard": Card("4444"),
    "pm_card_amex": Card("0005"),
    "pm_card_visa_chargeDeclined": _declined("0002", "card_declined", "generic_decline"),
    "pm_card_visa_chargeDeclinedInsufficientFunds": _declined("9995", "card_declined", "insufficient_funds"),
    "pm_card_visa_chargeDeclinedLostCard": _declined("9987", "card_declined", "lost_card"),
    "pm_card_visa_chargeDeclinedStolenCard": _declined("9979", "card_declined", "stolen_card"),
    "pm_card_chargeDeclinedExpiredCard": _declined("0069", "expired_card"),
    "pm_card_chargeDeclinedIncorrectCvc": _declined("0127", "incorrect_cvc"),
    "pm_card_chargeDeclinedProcessingError": _declined("0119", "processing_error"),
    "pm_card_authenticationRequired": Card("3184", Result.ACTION),
}
