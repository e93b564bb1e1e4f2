"""The short program between us and PostgreSQL: drops root's rights, ties its life to ours, becomes it.

Run as a script, with the standard library only. It is a program of its own and not a `preexec_fn`, because
Python code between fork and exec may deadlock in a process with threads (and warns from Python 3.12 on).
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# From sysexits.h's range, which PostgreSQL's programs do not use.
EXIT_OWNER_DIED = 70
EXIT_CAPABILITY_DENIED = 71
EXIT_USER_DENIED = 72
EXIT_NOT_EXECUTABLE = 73

PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
CAP_DAC_READ_SEARCH = 2
CAPABILITY_VERSION_3 = 0x20080522


def _become_program(words: Sequence[str]) -> None:
    """Drop root's rights, ask for SIGINT on our parent's death, and become the program. Does not return."""
    uid, gid, closed_count, parent = map(int, words[:4])
    if os.geteuid() == 0:
        _try_or_exit(EXIT_USER_DENIED, lambda: _drop_root(uid, gid, keep_capabilities=closed_count > 0))
        if closed_count:
            _try_or_exit(EXIT_CAPABILITY_DENIED, _keep_search_capability)
    if sys.platform == "linux":
        # After the change of user, which clears it.
        _set_process_option(PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != parent:  # It died before the kernel knew that we want to hear of it.
        sys.exit(EXIT_OWNER_DIED)
    for ignored_by_python in (signal.SIGPIPE, signal.SIGXFSZ):  # Would stay ignored in the program.
        signal.signal(ignored_by_python, signal.SIG_DFL)
    _try_or_exit(EXIT_NOT_EXECUTABLE, lambda: os.execv(words[4], list(words[4:])))  # noqa: S606 (our own words)


def _try_or_exit(status: int, step: Callable[[], object]) -> None:
    """Take the step, or end with a status that the parent can turn into its sentence."""
    try:
        step()
    except OSError as error:
        sys.stderr.write(f"counterfoil: error: {error}\n")
        sys.exit(status)


def _drop_root(uid: int, gid: int, *, keep_capabilities: bool) -> None:
    """Change user for good; groups first, for afterwards we may not."""
    if keep_capabilities:
        _set_process_option(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)


def _keep_search_capability() -> None:
    """Keep the one right to read and search past permissions, also across exec, and let go of all others."""
    bit = 1 << CAP_DAC_READ_SEARCH
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)  # 0: this process
    # Effective, permitted, inheritable; the last three words are capabilities 32 and up: none of them.
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    _raise_on_failure(_load_libc().capset(header, sets))
    _set_process_option(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_DAC_READ_SEARCH)


def _set_process_option(option: int, *values: int) -> None:
    """Call prctl(2), Linux's only door to these options; the words it does not use must be 0."""
    if sys.platform != "linux":
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    words = (*values, 0, 0, 0, 0)[:4]
    _raise_on_failure(_load_libc().prctl(option, *map(ctypes.c_ulong, words)))


def _load_libc() -> ctypes.CDLL:
    """Load the C library that this Python already uses."""
    return ctypes.CDLL(None, use_errno=True)


def _raise_on_failure(result: int) -> None:
    """Turn the C library's -1 into the error it left in errno."""
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


if __name__ == "__main__":
    _become_program(sys.argv[1:])
