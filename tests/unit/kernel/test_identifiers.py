"""Identifiers made outside the database."""

from __future__ import annotations

import time

import pytest

from counterfoil.kernel.ids import is_request_id, new_request_id, new_uuid7


def test_a_uuid_is_of_version_7_and_carries_its_millisecond() -> None:
    before = time.time_ns() // 1_000_000
    made = new_uuid7()
    after = time.time_ns() // 1_000_000

    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert before <= made.int >> 80 <= after


def test_uuids_are_all_different_and_later_ones_are_larger() -> None:
    early = [new_uuid7() for _ in range(1000)]
    time.sleep(0.002)
    late = [new_uuid7() for _ in range(1000)]

    assert len({*early, *late}) == 2000
    assert max(early) < min(late)


def test_our_own_request_ids_are_well_formed_and_all_different() -> None:
    made = [new_request_id() for _ in range(1000)]

    assert len(set(made)) == 1000
    assert all(is_request_id(request_id) for request_id in made)


@pytest.mark.parametrize("text", ["12345678", "a.b-c_d.e", "x" * 64])
def test_a_plain_request_id_is_accepted(text: str) -> None:
    assert is_request_id(text)


@pytest.mark.parametrize(
    "text", ["", "1234567", "x" * 65, "with space", "line\nfeed", "12345678\n", "ümlaut-id", '{"a": 12}']
)
def test_a_request_id_that_could_forge_a_log_line_is_not(text: str) -> None:
    assert not is_request_id(text)
