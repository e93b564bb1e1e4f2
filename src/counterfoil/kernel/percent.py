"""Percentages as integers, and the two roundings that they need."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

# One percent is ten thousand of these, so four digits after the point are exact.
PPM_OF_ONE: Final = 1_000_000
_PPM_OF_PERCENT: Final = 10_000


@dataclass(frozen=True, slots=True, order=True)
class Percent:
    """A percentage as `ppm`, millionths of the whole: 19 % is 190,000."""

    ppm: int

    def __post_init__(self) -> None:
        """Refuse what is below zero: nothing here is."""
        if self.ppm < 0:
            raise ValueError("a percentage must not be below zero")

    @classmethod
    def from_decimal(cls, percent: Decimal) -> Percent:
        """Convert exactly; raises ValueError for more than four digits after the point."""
        scaled = percent * _PPM_OF_PERCENT
        if scaled != scaled.to_integral_value():
            raise ValueError("a percentage has at most 4 digits after the point")
        return cls(int(scaled))

    @classmethod
    def parse(cls, text: str) -> Percent:
        """Read plain decimal text such as `8.1`; raises ValueError on signs, exponents, commas or a fifth digit."""
        whole, _, fraction = text.partition(".")
        if not (text.isascii() and whole.isdigit() and (fraction.isdigit() or "." not in text)):
            raise ValueError('write the percentage as plain digits in a string, for example "8.1"')
        return cls.from_decimal(Decimal(text))

    def to_decimal(self) -> Decimal:
        """Return the percentage with as many digits as it needs: 190,000 is `19`."""
        whole, rest = divmod(self.ppm, _PPM_OF_PERCENT)
        return Decimal(f"{whole}.{rest:04}".rstrip("0").rstrip("."))

    def of(self, minor: int) -> int:
        """Return this much of an amount in smallest units, rounded half up."""
        return round_half_up(minor * self.ppm, PPM_OF_ONE)

    def contained_in(self, minor: int) -> int:
        """Return what of an amount was added to the rest of it at this rate, rounded half up."""
        return round_half_up(minor * self.ppm, PPM_OF_ONE + self.ppm)


NO_PERCENT: Final = Percent(0)


def round_half_up(dividend: int, divisor: int) -> int:
    """Return the quotient of two integers, rounded to the nearest one; half of one is rounded up."""
    assert dividend >= 0, dividend
    return (2 * dividend + divisor) // (2 * divisor)
