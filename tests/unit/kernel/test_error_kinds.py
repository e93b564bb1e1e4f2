"""Expected failures carry a stable code and a sentence."""

from __future__ import annotations

import re

import pytest

from counterfoil.kernel.errors import KINDS, Conflict, DomainError, NotFound, ValidationFailed, all_errors


class Sold(Conflict):
    """{count} of {name} are sold; ask for less.

    The rest of a docstring is for readers of the code.
    """

    code = "TEST_SOLD"


def test_the_message_is_the_first_line_with_its_details() -> None:
    error = Sold(count=3, name="tea {1}")

    assert error.message == str(error) == "3 of tea {1} are sold; ask for less."
    assert error.details == {"count": 3, "name": "tea {1}"}
    assert error.replay_of is None


def test_an_error_without_a_code_or_a_sentence_cannot_be_written() -> None:
    with pytest.raises(TypeError, match="Mute needs a code and a docstring"):
        type("Mute", (NotFound,), {"code": "MUTE"})
    with pytest.raises(TypeError, match="Nameless needs a code and a docstring"):
        type("Nameless", (NotFound,), {"__doc__": "There is none."})


def test_a_validation_failure_lists_its_fields() -> None:
    fields = [{"field": "items[0].quantity", "message": "Too small."}]

    assert ValidationFailed(fields).details == {"fields": fields}


def test_every_error_has_a_kind_a_code_of_its_own_and_a_sentence() -> None:
    import counterfoil.infrastructure.idempotency
    import counterfoil.inventory.errors
    import counterfoil.orders.errors
    import counterfoil.products.errors
    import counterfoil.users.errors  # noqa: F401 - importing makes the errors known

    errors = all_errors()

    codes = [error.code for error in errors]
    assert codes == sorted(set(codes))
    for error in errors:
        assert re.fullmatch(r"[A-Z]+(_[A-Z]+)*", error.code), error
        assert sum(issubclass(error, kind) for kind in KINDS) == 1, error
        assert (error.__doc__ or "").strip(), error
        assert issubclass(error, DomainError)
