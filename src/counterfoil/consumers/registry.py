"""Who must know what: every consumer of events, one line each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from counterfoil.kernel.events import Event


class PermanentFailure(Exception):
    """The event can never be handled: it is laid aside at once, for a person to look at. The message is one word."""


@dataclass(frozen=True, slots=True)
class Consumer:
    """Somebody who handles events: each once in effect, at least once in fact.

    `subscribes_to` are types, or prefixes that end in `.*`. `handle` gets events that this consumer has not handled
    yet, those of one aggregate by their `seq` as far as none was laid aside. Raising means that nothing of it happened
    and it is to be tried later.

    With `in_transaction` it joins one open transaction together with the inbox's rows and touches nothing outside.
    Otherwise it runs outside of any transaction and must be idempotent by itself: a newer version wins.
    """

    name: str
    subscribes_to: tuple[str, ...]
    handle: Callable[[Sequence[Event]], None]
    in_transaction: bool = True

    def wants(self, event_type: str) -> bool:
        """Whether it subscribes to this type."""
        return any(
            event_type == pattern or (pattern.endswith(".*") and event_type.startswith(pattern[:-1]))
            for pattern in self.subscribes_to
        )


CONSUMERS: Final[tuple[Consumer, ...]] = ()
