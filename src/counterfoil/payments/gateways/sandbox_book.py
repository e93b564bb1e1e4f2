"""The sandbox's memory: pretended payments in a file that several processes share, or in this process alone."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from counterfoil.payments.gateways.base import GatewayPayment, GatewayRefund


class Line(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One change, written before it is answered. `key` and `fingerprint` are those of the call that made it.

    A line without payment, refund and refusal counts an attempt that was answered with a failure.
    """

    key: str = ""
    fingerprint: str = ""
    payment: GatewayPayment | None = None
    refund: GatewayRefund | None = None
    refusal: str = ""


class SandboxBook:
    """Payments, refunds and used keys. Grows with every call: made for trying out and for tests.

    With a file, every process that names it sees the same money, and a process that is killed loses nothing that it
    answered. The file is read from where the last reading ended, under a lock of the file system.
    """

    def __init__(self, path: Path | None = None) -> None:
        """Open the book; the file is made when it is first needed."""
        self.payments: dict[str, GatewayPayment] = {}
        self.refunds: dict[str, GatewayRefund] = {}
        self.answers: dict[str, Line] = {}
        self.attempts: dict[str, int] = {}
        self._payments_by_reference: defaultdict[str, list[str]] = defaultdict(list)
        self._refunds_by_payment: defaultdict[str, list[GatewayRefund]] = defaultdict(list)
        self._path = path
        self._read_up_to = 0
        self._lock = threading.Lock()
        self._descriptor: int | None = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the book against other threads and processes, brought up to date."""
        with self._lock:
            if self._path is None:
                yield
                return
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._catch_up(descriptor)
                self._descriptor = descriptor
                yield
            finally:
                self._descriptor = None
                os.close(descriptor)

    def write(self, line: Line) -> None:
        """Make one change durable and visible; the book must be locked."""
        if self._descriptor is not None:
            data = msgspec.json.encode(line) + b"\n"
            if os.write(self._descriptor, data) < len(data):  # the disk is full; the next reader cuts the rest off
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fdatasync(self._descriptor)
            self._read_up_to += len(data)
        self._apply(line)

    def with_reference(self, reference: str) -> tuple[GatewayPayment, ...]:
        """Return the payments with our reference, oldest first."""
        return tuple(self.payments[name] for name in self._payments_by_reference.get(reference, ()))

    def refunds_of(self, payment_id: str) -> list[GatewayRefund]:
        """Return a payment's refunds, newest first."""
        return self._refunds_by_payment.get(payment_id, [])[::-1]

    def _catch_up(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        data = os.pread(descriptor, size - self._read_up_to, self._read_up_to)
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            # Whoever wrote the rest was killed while it wrote, and answered nobody.
            os.ftruncate(descriptor, self._read_up_to + len(whole))
        for text in whole.splitlines():
            self._apply(msgspec.json.decode(text, type=Line))
        self._read_up_to += len(whole)

    def _apply(self, line: Line) -> None:
        if line.payment is not None:
            if line.payment.payment_id not in self.payments:
                self._payments_by_reference[line.payment.reference].append(line.payment.payment_id)
            self.payments[line.payment.payment_id] = line.payment
        if line.refund is not None:  # written once, it never changes
            self.refunds[line.refund.refund_id] = line.refund
            self._refunds_by_payment[line.refund.payment_id].append(line.refund)
        if line.key:
            self.attempts[line.key] = self.attempts.get(line.key, 0) + 1
        if line.key and (line.payment or line.refund or line.refusal):
            self.answers[line.key] = line
