"""The fault plan: which request goes wrong, and how. A pure function of the seed and the request's number."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final


class Fault(StrEnum):
    """What can go wrong with a call that moves money."""

    CHARGE_THEN_HANG = "charge_then_hang"
    HANG_BEFORE_CHARGE = "hang_before_charge"
    HANG_THEN_CHARGE = "hang_then_charge"
    ERROR_500 = "error_500"
    ERROR_500_CHARGED = "error_500_charged"
    ERROR_500_HALF_CHARGED = "error_500_half_charged"
    RATE_LIMITED = "rate_limited"
    IN_FLIGHT = "in_flight"
    RESET_MID_BODY = "reset_mid_body"
    BROKEN_JSON = "broken_json"
    SLOW = "slow"


_AT: Final = "at."
_NEXT: Final = "next."


class FaultPlanError(ValueError):
    """The plan names something that there is not; the message is for whoever wrote it."""


@dataclass(frozen=True, slots=True)
class Options:
    """How long and how often, beside the faults themselves. Rates are shares from 0 to 1."""

    hang_seconds: float = 31.0
    slow_seconds: float = 29.0
    latency_seconds: float = 0.0
    retry_after_seconds: float = 1.0
    search_lag_seconds: float = 0.0
    webhook_delay_seconds: float = 0.0
    webhook_retry_seconds: float = 1.0
    webhook_duplicates: float = 0.0
    webhook_copies: float = 1.0
    webhook_never: float = 0.0
    webhook_early: float = 0.0


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Rates by fault, faults by request number, and the options."""

    seed: int = 0
    rates: dict[Fault, float] = field(default_factory=dict)
    at: dict[int, Fault] = field(default_factory=dict)
    options: Options = field(default_factory=Options)

    @classmethod
    def parse(cls, words: Mapping[str, Any], *, seed: int, requests_so_far: int = 0) -> FaultPlan:
        """Read a flat mapping; raises FaultPlanError.

        `<fault>` sets a rate, `at.N` the fault of request N, `next.N` the same counted from now; any other name is an
        option. Requests count from 1, and only those that move money.
        """
        rates: dict[Fault, float] = {}
        at: dict[int, Fault] = {}
        options: dict[str, float] = {}
        for name, value in words.items():
            if name in list(Fault):
                rates[Fault(name)] = _share(name, value)
            elif name.startswith((_AT, _NEXT)):
                prefix, _, number = name.partition(".")
                at[_number(name, number) + (requests_so_far if f"{prefix}." == _NEXT else 0)] = _fault(name, value)
            elif name in Options.__dataclass_fields__:
                is_rate = name in {"webhook_duplicates", "webhook_never", "webhook_early"}
                options[name] = _share(name, value) if is_rate else _seconds(name, value)
            else:
                known = ", ".join([*Fault, "at.N", "next.N", *Options.__dataclass_fields__])
                raise FaultPlanError(f"there is no fault or option {name!r}; known are: {known}")
        if sum(rates.values()) > 1:
            raise FaultPlanError("the rates of all faults together exceed 1")
        return cls(seed, rates, at, Options(**options))

    def fault_of(self, number: int) -> Fault | None:
        """Return what goes wrong with the request of this number; the half-charged is decided here as well."""
        draw = random.Random(f"{self.seed}:{number}")  # noqa: S311 - repeatable, not secret
        point, coin = draw.random(), draw.random()
        found = self.at.get(number) or self._drawn(point)
        if found is Fault.ERROR_500_HALF_CHARGED:
            return Fault.ERROR_500_CHARGED if coin < 0.5 else Fault.ERROR_500  # noqa: PLR2004 - half
        return found

    def _drawn(self, point: float) -> Fault | None:
        for fault in Fault:  # in the order of the class, not of the plan's text
            point -= self.rates.get(fault, 0.0)
            if point < 0:
                return fault
        return None


def split_words(text: str) -> dict[str, str]:
    """Read `name=value,name=value` into a mapping; raises FaultPlanError."""
    words = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, separator, value = part.partition("=")
        if not separator:
            raise FaultPlanError(f"{part!r} is not name=value")
        words[name.strip()] = value.strip()
    return words


def _share(name: str, value: Any) -> float:
    share = _seconds(name, value)
    if share > 1:
        raise FaultPlanError(f"{name} is a share from 0 to 1")
    return share


def _seconds(name: str, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise FaultPlanError(f"{name} must be a number") from error
    if not 0 <= number < 1e9:  # noqa: PLR2004 - thirty years; also no infinity and no NaN
        raise FaultPlanError(f"{name} must not be negative")
    return number


def _number(name: str, text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise FaultPlanError(f"{name} needs a request number from 1")
    return int(text)


def _fault(name: str, value: Any) -> Fault:
    if value not in list(Fault):
        raise FaultPlanError(f"{name} names no fault; known are: {', '.join(Fault)}")
    return Fault(value)
