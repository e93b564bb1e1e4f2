"""Money as integer minor units of an ISO 4217 currency."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Final

# Active currencies by their number of digits after the point (ISO 4217:2015, list one).
_NO_DIGITS: Final = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF"
_THREE_DIGITS: Final = "BHD IQD JOD KWD LYD OMR TND"
_TWO_DIGITS: Final = (
    "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP CRC "
    "CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD "
    "KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO "
    "NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL "
    "THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VES WST XCD YER ZAR ZMW"
)
CURRENCY_DIGITS: Final[dict[str, int]] = {
    **dict.fromkeys(_TWO_DIGITS.split(), 2),
    **dict.fromkeys(_NO_DIGITS.split(), 0),
    **dict.fromkeys(_THREE_DIGITS.split(), 3),
}

# Columns are DECIMAL(19, 4): fifteen digits before the point. One less leaves room for sums of a batch.
AMOUNT_MAX: Final = Decimal(10) ** 14


@dataclass(frozen=True, slots=True, order=True)
class Money:
    """An exact amount: `amount_minor` is an integer count of the currency's smallest unit (cents for EUR)."""

    amount_minor: int
    currency: str

    def __post_init__(self) -> None:
        """Refuse an unknown currency: its number of digits would be a guess."""
        if self.currency not in CURRENCY_DIGITS:
            raise ValueError(f"{self.currency!r} is not an ISO 4217 currency code")

    @classmethod
    def from_decimal(cls, amount: Decimal, currency: str) -> Money:
        """Convert exactly; raises ValueError when `amount` has more digits than the currency."""
        if currency not in CURRENCY_DIGITS:
            raise ValueError(f"{currency!r} is not an ISO 4217 currency code")
        scaled = amount.scaleb(CURRENCY_DIGITS[currency])
        if scaled != scaled.to_integral_value():
            raise ValueError(f"{currency} amounts have at most {CURRENCY_DIGITS[currency]} digits after the point")
        return cls(int(scaled), currency)

    @classmethod
    def parse(cls, text: str, currency: str) -> Money:
        """Read plain decimal text such as `19.99`; raises ValueError on signs, exponents, commas or extra digits."""
        whole, _, fraction = text.partition(".")
        digits_only = text.isascii() and whole.isdigit() and (fraction.isdigit() or "." not in text)
        if not digits_only:
            raise ValueError('write the amount as plain digits in a string, for example "19.99"')
        try:
            amount = Decimal(text)
        except InvalidOperation as error:  # pragma: no cover - the check above leaves nothing to fail
            raise ValueError("not a decimal amount") from error
        if amount >= AMOUNT_MAX:
            raise ValueError(f"an amount must stay below {AMOUNT_MAX:f}")
        return cls.from_decimal(amount, currency)

    @property
    def digits(self) -> int:
        """How many digits the currency has after the point."""
        return CURRENCY_DIGITS[self.currency]

    def to_decimal(self) -> Decimal:
        """Return the amount in major units with exactly the currency's digits: 9990 EUR is `99.90`."""
        return Decimal(self.amount_minor).scaleb(-self.digits)

    def __add__(self, other: Money) -> Money:
        """Add an amount of the same currency."""
        if self.currency != other.currency:
            raise ValueError(f"cannot add {other.currency} to {self.currency}")
        return Money(self.amount_minor + other.amount_minor, self.currency)

    def __mul__(self, quantity: int) -> Money:
        """Multiply by a whole quantity; exact, so no rounding is named."""
        return Money(self.amount_minor * quantity, self.currency)

    def __str__(self) -> str:
        """Render for people: `99.90 EUR`."""
        return f"{self.to_decimal()} {self.currency}"
