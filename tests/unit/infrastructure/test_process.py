"""Being told to stop, at the worst moment."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

# The event's lock is held when the signal comes: a handler that took it would wait for its own thread for ever.
HELD = """
import time
from counterfoil.infrastructure.process import run_until_told

def run(stop):
    with stop._cond:
        print("held", flush=True)
        time.sleep(0.5)
    stop.wait()
    print("told", flush=True)

run_until_told(run)
print("ended", flush=True)
"""
FAILING = """
from counterfoil.infrastructure.process import run_until_told

def run(stop):
    raise RuntimeError("broken")

run_until_told(run)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_at_the_worst_moment_is_heard(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", HELD], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(number)
        try:
            rest, _ = process.communicate(timeout=20)
        finally:
            process.kill()

    assert (rest, process.returncode) == ("told\nended\n", 0)


def test_what_breaks_off_ends_the_process_with_its_error() -> None:
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True, check=False, timeout=20)

    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: broken\n")
