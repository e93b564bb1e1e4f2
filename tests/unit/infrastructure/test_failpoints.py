from __future__ import annotations

import os
import subprocess
import sys

import pytest

from counterfoil.infrastructure import failpoints
from counterfoil.infrastructure.failpoints import EXIT_CODE, NAMES, Failpoints


def test_a_process_dies_at_the_point_that_is_named_and_at_no_other() -> None:
    died: list[int] = []
    armed = Failpoints("claim.written, record.begun:2", die=died.append)

    for name in NAMES:
        armed(name)
    assert died == [EXIT_CODE]
    armed("record.begun")

    assert died == [EXIT_CODE, EXIT_CODE]


@pytest.mark.parametrize("plan", ["claim.writen", "claim.written:x", "claim.written:-1"])
def test_a_plan_that_names_nothing_is_refused(plan: str) -> None:
    with pytest.raises(ValueError, match="there is no failpoint"):
        Failpoints(plan)


def test_without_a_plan_a_failpoint_is_a_function_that_does_nothing() -> None:
    assert failpoints.failpoint is failpoints._do_nothing  # noqa: SLF001 - what is bound is the promise
    failpoints.failpoint("not even looked up")


def test_a_process_that_is_told_to_dies_with_the_code_of_a_kill() -> None:
    program = "from counterfoil.infrastructure.failpoints import failpoint; failpoint('claim.begun'); print('alive')"

    ended = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "COUNTERFOIL_FAILPOINTS": "claim.begun"},
        capture_output=True,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (137, b"")
