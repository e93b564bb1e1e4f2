"""The worker's part: takes calls that are due, makes them in threads, and has their outcomes recorded."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg
import structlog
from django.conf import settings

from counterfoil.infrastructure.database import connection_string, run_in_thread
from counterfoil.infrastructure.failpoints import failpoint
from counterfoil.infrastructure.metrics import PAYMENT_CALLS
from counterfoil.kernel.backoff import Backoff
from counterfoil.kernel.errors import Unavailable
from counterfoil.payments import services
from counterfoil.payments.attempt_repositories import CALLS_CHANNEL
from counterfoil.payments.calls import Finding, Outcome
from counterfoil.payments.gateways.registry import Gateways
from counterfoil.payments.views import Call

log = structlog.get_logger(__name__)

# As many as a gateway's bulkhead lets pass at once.
THREADS: Final = 8
# A wake-up may get lost with its connection; what is due by the clock has none.
_POLL_SECONDS: Final = 1.0
# A quarter of the lease: three beats may fail.
_BEAT_SECONDS: Final = 10.0
# What a call under way gets at the end: longer than one attempt takes. What is left then, its lease gives to another.
STOP_SECONDS_MAX: Final = 35.0
# An answer in hand is worth a few tries to a database that is busy; then looking again finds the same.
_SETTLE_TRIES: Final = 5
_SETTLE_WAITS: Final = Backoff(base_seconds=0.1, cap_seconds=2.0)


class Dispatcher:
    """Makes calls to gateways for as long as it runs; any number may run at once, in any number of processes.

    No connection or transaction is held while a gateway is waited for. A call is in one worker's hands at a time; a
    worker that dies leaves it to its lease, and one that was only slow cannot record any more.
    """

    def __init__(self, gateways: Gateways, settle: Callable[[Call, Outcome], object], threads: int = THREADS) -> None:
        """Ask these gateways; `settle` records an outcome in a transaction of its own."""
        self._gateways = gateways
        self._settle = settle
        self._threads = threads
        self._lock = threading.Lock()
        self._held: dict[int, tuple[Call, threading.Thread]] = {}
        self._freed = threading.Event()
        self._is_full = False
        self._beaten_at = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        """Work until told to stop, then finish what is under way for up to STOP_SECONDS_MAX."""
        wake_ups = _WakeUps(stop)
        try:
            while not stop.is_set():
                if not self._take_turn():
                    self._wait(wake_ups)
        finally:
            wake_ups.close()
            self._drain()

    # ------------------------------------------------------------ one turn
    def _take_turn(self) -> bool:
        """Take calls for all free threads; returns whether there may be more at once."""
        try:
            self._beat()
            self._freed.clear()
            free = self._threads - len(self._held)
            self._is_full = free <= 0
            if self._is_full:
                return False
            claimed = run_in_thread(services.claim_calls, limit=free)
        except Unavailable as error:
            log.warning("payments.unavailable", code=error.code)
            return False
        except Exception:  # the loop's outermost line: it goes on
            log.exception("payments.turn_failed")
            return False
        for call in claimed:
            self._hand_out(call)
        return len(claimed) == free

    def _wait(self, wake_ups: _WakeUps) -> None:
        if self._is_full:
            self._freed.wait(_POLL_SECONDS)
        else:
            wake_ups.wait(_POLL_SECONDS)

    def _beat(self) -> None:
        """Keep the calls that are still being made."""
        if time.monotonic() - self._beaten_at < _BEAT_SECONDS:
            return
        self._beaten_at = time.monotonic()
        with self._lock:
            held = [call for call, _ in self._held.values()]
        if held:
            run_in_thread(services.extend_leases, held)

    def _hand_out(self, call: Call) -> None:
        thread = threading.Thread(target=self._make, args=[call], name=f"call-{call.attempt_id}", daemon=True)
        with self._lock:
            self._held[call.attempt_id] = (call, thread)
        thread.start()

    def _drain(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS_MAX
        while time.monotonic() < deadline:
            with self._lock:
                threads = [thread for _, thread in self._held.values()]
            if not threads:
                return
            threads[0].join(min(_POLL_SECONDS, max(0.0, deadline - time.monotonic())))
            try:
                self._beat()
            except Unavailable as error:
                log.warning("payments.unavailable", code=error.code)
        log.warning("payments.left_running", calls=len(self._held))

    # ------------------------------------------------------------ one call, in a thread of its own
    def _make(self, call: Call) -> None:
        try:
            outcome = self._execute(call)
            failpoint("settle.begun")
            self._record(call, outcome)
            failpoint("settle.committed")
        except Exception:  # the thread's outermost line: its lease gives the call to the next one, who looks
            log.exception("payments.call_failed", attempt_id=call.attempt_id, payment_id=call.payment.id)
        finally:
            with self._lock:
                del self._held[call.attempt_id]
            self._freed.set()

    def _execute(self, call: Call) -> Outcome:
        try:
            return run_in_thread(services.execute, call, self._gateways)
        except Exception:  # a bug, after which nobody knows what was done; it must not be met every few seconds
            log.exception("payments.execute_failed", attempt_id=call.attempt_id, payment_id=call.payment.id)
            return Outcome(Finding.UNKNOWN, "bug", is_our_fault=True)

    def _record(self, call: Call, outcome: Outcome) -> None:
        for number in range(_SETTLE_TRIES):
            try:
                run_in_thread(self._settle, call, outcome)
            except Unavailable as error:
                log.warning("payments.unavailable", code=error.code, attempt_id=call.attempt_id)
                if number == _SETTLE_TRIES - 1:
                    raise
                time.sleep(_SETTLE_WAITS.wait_seconds(number, uniform=random.uniform))
            else:
                PAYMENT_CALLS.labels(call.operation.value, outcome.finding.name.lower()).inc()
                return


class _WakeUps:
    """Hears of calls that become due, on a connection of its own; while that is away there is only the clock."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        self._again_at = 0.0

    def wait(self, seconds: float) -> None:
        """Return when something is due, or after `seconds`."""
        try:
            if self._connection is not None:
                for _ in self._connection.notifies(timeout=seconds, stop_after=1):
                    pass
            elif time.monotonic() >= self._again_at:
                # Nothing is waited for now: what was said before anybody listened must be looked for once.
                self._connect()
            else:
                self._stop.wait(seconds)
        except psycopg.Error as error:
            log.warning("payments.not_listening", error=type(error).__name__)
            self.close()
            # Spread, so that many workers do not come back to a new primary at the same moment.
            self._again_at = time.monotonic() + random.uniform(0.5, 2.0)  # noqa: S311 - not a secret

    def close(self) -> None:
        """Stop listening."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _connect(self) -> None:
        url = connection_string(settings.COUNTERFOIL.database_url)
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute(f"LISTEN {CALLS_CHANNEL}")
