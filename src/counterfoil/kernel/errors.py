"""Expected failures: eight kinds, each with a stable code and a sentence."""

from __future__ import annotations

from typing import Any, ClassVar


class DomainError(Exception):
    """An expected failure that a caller can act on.

    Subclass one of the eight kinds below; give a `code` (stable, upper snake case) and a docstring, whose first
    line is the message, formatted with the keyword arguments, which are also the `details` shown to the caller.
    """

    code: ClassVar[str] = ""
    # The request that was first answered so, when this is a repetition of a stored refusal.
    replay_of: str | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse a subclass that could not be shown to anybody."""
        super().__init_subclass__(**kwargs)
        if DomainError in cls.__bases__:
            return
        if not cls.__dict__.get("code") or not cls.__dict__.get("__doc__"):
            raise TypeError(f"{cls.__name__} needs a code and a docstring that is its message")

    def __init__(self, **details: Any) -> None:
        """Keep `details` and format the message with them."""
        self.details = details
        super().__init__(self.message)

    @property
    def message(self) -> str:
        """The sentence for a person: what happened and what to do next."""
        template = (self.__doc__ or "").strip().splitlines()[0]
        return template.format(**self.details)


class Invalid(DomainError):
    """The request itself is wrong."""


class Unauthenticated(DomainError):
    """The caller is not known."""


class Declined(DomainError):
    """The payment was refused."""


class Forbidden(DomainError):
    """The caller may not do this."""


class NotFound(DomainError):
    """There is no such thing for this caller."""


class Conflict(DomainError):
    """The state of things does not allow it."""


class LimitExceeded(DomainError):
    """Too much in too short a time."""


class Unavailable(DomainError):
    """Something needed is out of reach for now; the same request may be repeated."""


KINDS: tuple[type[DomainError], ...] = (
    Invalid,
    Unauthenticated,
    Declined,
    Forbidden,
    NotFound,
    Conflict,
    LimitExceeded,
    Unavailable,
)


def all_errors() -> list[type[DomainError]]:
    """Return every concrete error that is imported, ordered by code."""
    found: set[type[DomainError]] = set()
    queue: list[type[DomainError]] = list(KINDS)
    while queue:
        for subclass in queue.pop().__subclasses__():
            found.add(subclass)
            queue.append(subclass)
    # A class that __init_subclass__ refused stays among the subclasses until the garbage collector comes by.
    complete = (error for error in found if error.__dict__.get("code") and error.__dict__.get("__doc__"))
    return sorted(complete, key=lambda error: error.code)


class ValidationFailed(Invalid):
    """The request has fields that cannot be accepted; each is named in details."""

    code = "VALIDATION_FAILED"

    def __init__(self, fields: list[dict[str, str]]) -> None:
        """Take `fields`: one `{"field": path, "message": sentence}` for each offending field."""
        super().__init__(fields=fields)


class ServiceUnavailable(Unavailable):
    """The service cannot take this request right now; nothing was done, try again shortly."""

    code = "SERVICE_UNAVAILABLE"
