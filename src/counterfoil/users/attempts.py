"""Guessing a password is slow: attempts are counted before the password is looked at, and only wrong ones stay counted.

Three counts in a quarter of an hour: per account and address, per address, and per account from addresses that have
never signed in to it. The last one stops a guesser with many addresses and cannot lock out the person, whose own
addresses are known for 30 days, by the rows of sign_ins. Unknown accounts are counted alike, so that nobody learns
which exist.
"""

from __future__ import annotations

import hmac
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Final

import structlog
from django.conf import settings

from counterfoil.infrastructure.key_store import blind_index
from counterfoil.infrastructure.rate_limiter import Hit, hash_address, network_of, take_in_thread
from counterfoil.kernel.errors import ServiceUnavailable
from counterfoil.users import access_repositories
from counterfoil.users.errors import LoginFailed, TooManyAttempts

log = structlog.get_logger(__name__)

WINDOW_SECONDS: Final = 900
PER_ACCOUNT_AND_ADDRESS: Final = 5
PER_ACCOUNT_FROM_STRANGERS: Final = 10


@contextmanager
def counted_attempt(*, account: str, address: str, known: bool, request_id: str) -> Iterator[None]:
    """Count one attempt to sign in to `account` (an e-mail address as given) from `address`, around the look at it.

    `known` is what `knows` told.
    LoginFailed keeps it counted. Anything else gives it back: success, and a service that could not look. For worker
    threads. Raises TooManyAttempts; the attempt is then not counted, so waiting always
    helps. Raises ServiceUnavailable when nobody counts: then nobody looks either.
    """
    keys = _Keys(account, address)
    hits = [keys.pair(1), keys.address(1), *([] if known else [keys.strangers(1)])]
    _begin(hits, address, request_id)
    try:
        yield
    except LoginFailed:
        raise
    except BaseException:
        _give_back(hits)
        raise
    _give_back(hits)


def knows(account: str, address: str) -> bool:
    """Tell whether this account (a canonical address, or what was given in its place) has come from here lately."""
    return access_repositories.is_known_address(email_index=blind_index(account), address_hash=known_name(address))


def known_name(address: str) -> bytes | None:
    """Return what is stored of an address: keyed apart from the secret, which may change before a month is over."""
    network = network_of(address)
    return None if network is None else blind_index(f"sign-in address|{network}")


def _begin(hits: Sequence[Hit], address: str, request_id: str) -> None:
    counts = take_in_thread(hits)
    if counts is None or all(count.passes for count in counts):
        return
    _give_back(hits)
    log.warning(
        "security.sign_in_slowed",
        account_spent=not counts[0].passes or (len(counts) > 2 and not counts[2].passes),  # noqa: PLR2004 - strangers
        from_address=hash_address(address),
        request_id=request_id,
    )
    seconds_left = max(count.seconds_left for count in counts if not count.passes)
    raise TooManyAttempts(retry_after_seconds=max(math.ceil(seconds_left), 1))


class _Keys:
    """The keys of one attempt. They hold keyed hashes only: neither the account nor the address can be read back."""

    def __init__(self, account: str, address: str) -> None:
        secret = settings.SECRET_KEY.encode()
        self._account = hmac.digest(secret, b"attempt\0" + account.strip().lower().encode(), "sha256")[:16].hex()
        self._address = hash_address(address)

    def pair(self, amount: int) -> Hit:
        return _hit(f"attempt:pair:{self._account}:{self._address}", PER_ACCOUNT_AND_ADDRESS, amount)

    def strangers(self, amount: int) -> Hit:
        return _hit(f"attempt:account:{self._account}", PER_ACCOUNT_FROM_STRANGERS, amount)

    def address(self, amount: int) -> Hit:
        limit, seconds = settings.COUNTERFOIL.limit_of("sign_in_failures")
        return _hit(f"attempt:address:{self._address}", limit, amount, seconds)


def _hit(key: str, limit: int, amount: int, seconds: int = WINDOW_SECONDS) -> Hit:
    # Given back again, so a spent key must not be remembered until its window ends.
    return Hit(key, limit, seconds, amount=amount, strict=True, final=False)


def _give_back(hits: Sequence[Hit]) -> None:
    # Whoever was let in stays in when the count cannot be given back; it ends with its window.
    with suppress(ServiceUnavailable):
        take_in_thread([replace(hit, amount=-hit.amount) for hit in hits])
