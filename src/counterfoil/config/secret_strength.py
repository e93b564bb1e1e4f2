"""How much there is to guess in a secret (pure): an estimate that finds the careless, not a proof."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Hashable, Iterable
from typing import Final

# Below this, a machine could try them all; 32 random hexadecimal digits are estimated at about 110.
BITS_MIN: Final = 80
_WORDS: Final = re.compile(
    r"change[-_ ]?me|secret|password|passwort|qwertyuiop|asdfghjkl|zxcvbnm|example|default|counterfoil|django|key|test",
    re.IGNORECASE,
)
_INSECURE: Final = "django-insecure-"


def find_weakness(secret: str) -> str | None:
    """Return why a secret can be guessed, as a clause for a sentence, or None."""
    if secret.startswith(_INSECURE):
        return "is the example that Django writes into a new project"
    rest = _WORDS.sub("", secret)
    if secret in (secret + secret)[1:-1]:
        return "is a repetition"
    steps = (ord(after) - ord(before) for before, after in itertools.pairwise(rest))
    bits = len(rest) * min(_bits_of(rest), _bits_of(steps))
    return "is too regular to be random" if bits < BITS_MIN else None


def _bits_of(values: Iterable[Hashable]) -> float:
    """Return Shannon's bits per value, from how often each one occurs."""
    counts = Counter(values)
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values()) if total else 0.0
