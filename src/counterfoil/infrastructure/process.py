"""How our processes begin and end: with their parent, at a port of their own, and when they are told to."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


# What this process holds; a forked child gives up its copies, or they would outlive the process that claimed.
_claims: list[socket.socket] = []


class PortClaimed(Exception):
    """Somebody else holds the port for the same role."""


@contextmanager
def claim_port(role: str, port: int) -> Iterator[None]:
    """Hold a port for one `role` of this machine until the block or the process ends (Linux); raises PortClaimed.

    The web server shares its listening socket among its processes, so the kernel would let a second service listen
    on the same port and hand it every other request. A name in the abstract socket space has one holder, and is free
    again however that holder ends.
    """
    if sys.platform != "linux":
        yield
        return
    with socket.socket(socket.AF_UNIX) as holder:
        try:
            holder.bind(f"\0counterfoil-{role}-{port}")
        except OSError as error:
            raise PortClaimed(f"port {port} as {role}") from error
        _claims.append(holder)
        yield


def forget_claims() -> None:
    """Give up the claims that a forked child has inherited; its parent keeps them."""
    for holder in _claims:
        holder.close()


def die_with_parent(*, parent: int) -> None:
    """Ask the kernel (Linux) to send SIGTERM to this process when the process `parent` that made it ends.

    Elsewhere nothing happens and an orphan has to be stopped by hand.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    # The parent may have ended before the kernel was asked.
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)


def run_until_told(run: Callable[[threading.Event], None]) -> None:
    """Run something in a thread of its own, and tell it by its event when SIGTERM or SIGINT comes; for the main thread.

    A handler that set the event itself could meet the main thread inside `Event.wait`, holding the lock that `set`
    needs, and wait for it for ever. Here handlers do nothing: the signal's number arrives on a socket, and the main
    thread, which waits for nothing else, sets the event. Returns when `run` does, and raises what it raises.
    """
    stop, failures = threading.Event(), list[BaseException]()
    told, tell = socket.socketpair()
    tell.setblocking(False)

    def run_to_its_end() -> None:
        try:
            run(stop)
        except BaseException as error:  # noqa: BLE001 - raised again by the main thread
            failures.append(error)
        finally:
            tell.send(b"\0")

    with told, tell:
        before = signal.set_wakeup_fd(tell.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        thread = threading.Thread(target=run_to_its_end, name="work")
        thread.start()
        told.recv(1)
        stop.set()
        thread.join()
        signal.set_wakeup_fd(before)
    if failures:
        raise failures[0]
