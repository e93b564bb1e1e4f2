"""Passwords: how strong they must be, how they are hashed and compared."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, Final

from django.contrib.auth import get_user_model, hashers
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import ValidationError

from counterfoil.kernel.errors import ServiceUnavailable, ValidationFailed

# zxcvbn's scale: 3 is "safely unguessable" offline for a slow hash, about 10^8 guesses and more.
_SCORE_MIN: Final = 3
# Its time grows faster than the length, above all for symbols that stand for letters: 72 of them take 2 s, 32 take
# 0.4 s, about as long as hashing. 32 characters that are easy to guess are not worth more with something behind them.
_RATED_CHARS_MAX: Final = 32
# Argon2 takes 100 MB and a core each time. More at once would take memory and threads from everybody else.
_HASHING: Final = threading.BoundedSemaphore(2)
_HASHING_SECONDS_MAX: Final = 1.0
# zxcvbn keeps the words of the last caller in a table of the module.
_RATING: Final = threading.Lock()


def hash_password(password: str, *, email: str, name: str) -> str:
    """Return the hash to store; raises ValidationFailed with advice for a password that is easy to guess."""
    # Any object with these members will do: a new account is nowhere yet.
    person: Any = SimpleNamespace(email=email, name=name, _meta=get_user_model()._meta)  # noqa: SLF001 - Django reads it
    try:
        validate_password(password, user=person)
    except ValidationError as error:
        raise ValidationFailed([{"field": "password", "message": " ".join(error.messages)}]) from error
    with _hashing():
        return hashers.make_password(password)


def is_right(password: str, password_hash: str | None) -> bool:
    """Tell whether a password belongs to a hash; takes as long when there is none, because nobody has the address."""
    with _hashing():
        right = hashers.check_password(password, password_hash or _unknown_hash())
    return right and password_hash is not None


class StrengthValidator:
    """Refuses what somebody guesses who knows lists of passwords, words, names, dates and keyboards."""

    def validate(self, password: str, user: Any = None) -> None:
        """Raise ValidationError with zxcvbn's advice as sentences."""
        from zxcvbn import matching, zxcvbn  # half a second and its lists, needed by few processes

        known = [str(value) for field in ("email", "name") if (value := getattr(user, field, None))]
        if not _RATING.acquire(timeout=_HASHING_SECONDS_MAX):
            raise ServiceUnavailable
        try:
            found = zxcvbn(password[:_RATED_CHARS_MAX], [*known, "counterfoil"])
        finally:
            matching.RANKED_DICTIONARIES.pop("user_inputs", None)
            _RATING.release()
        if found["score"] < _SCORE_MIN:
            raise ValidationError(_advice(found["feedback"]["warning"], found["feedback"]["suggestions"]))

    def get_help_text(self) -> str:
        """Tell people what is wanted."""
        return "Your password must be hard to guess; four uncommon words are good."


def _advice(warning: str, suggestions: Sequence[str]) -> str:
    sentences = [warning, *suggestions] if warning or suggestions else ["Add another word or two."]
    advice = " ".join(f"{sentence.strip().rstrip('.')}." for sentence in sentences if sentence.strip())
    return f"This password is easy to guess. {advice}"


# Hashed when no account matches, so that a wrong address takes as long as a wrong password.
@functools.cache  # made when first needed: hashing takes 100 MB, which a worker never needs
def _unknown_hash() -> str:
    return hashers.make_password("nobody has this password")


@contextmanager
def _hashing() -> Iterator[None]:
    if not _HASHING.acquire(timeout=_HASHING_SECONDS_MAX):
        raise ServiceUnavailable
    try:
        yield
    finally:
        _HASHING.release()
