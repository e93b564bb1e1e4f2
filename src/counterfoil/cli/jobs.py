"""What a worker does again and again; one job that fails does not keep the others waiting."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from counterfoil.payments.dispatcher import Dispatcher

# An expired order should be seen within a second or two, and a change be chained within as much.
_INTERVAL_SECONDS: Final = 1.0
# Small enough that the stock rows of one round are locked for milliseconds.
_EXPIRY_ORDERS_MAX: Final = 50
# No stock is touched: only as many rows as a statement writes in milliseconds.
_COMPLETION_ORDERS_MAX: Final = 200
# Each takes a handful of small transactions, and the expiry of orders must not wait for long.
_ERASURES_MAX: Final = 10
_DELETED_ROWS_MAX: Final = 1000
# Whether today's comparison with the gateway has been made is worth a look a minute.
_COMPARISON_LOOK_SECONDS: Final = 60.0
_MAILS_MAX: Final = 20
# A mail that is on its way is finished first, unless the mail server stands still: then it is sent again later.
_MAIL_STOP_SECONDS_MAX: Final = 15


@dataclass(frozen=True, slots=True)
class Job:
    """`run` does up to `full` things and returns how many it did; `full` of them mean that there may be more."""

    name: str
    run: Callable[[], int]
    full: int


def run_jobs(stop: threading.Event) -> None:
    """Run every job in rounds until told to stop.

    Mails go out beside them: a mail server may take a minute to say no. So are gateways asked for money, and for their
    lists.
    """
    mails = threading.Thread(target=_run_until, args=[_mail_jobs(), stop], daemon=True)
    mails.start()
    payments = threading.Thread(target=_make_dispatcher().run, args=[stop])
    payments.start()
    comparisons = threading.Thread(target=_run_until, args=[_gateway_jobs(stop), stop], daemon=True)
    comparisons.start()
    _run_until(_database_jobs(), stop)
    mails.join(_MAIL_STOP_SECONDS_MAX)
    payments.join()  # ends by itself, within the time that a call takes


def _run_until(jobs: list[Job], stop: threading.Event) -> None:
    while not stop.is_set():
        more = False
        for job in jobs:
            more = _run(job) or more
        if not more:
            stop.wait(_INTERVAL_SECONDS)


def _run(job: Job) -> bool:
    """Run one job once; returns whether there may be more to do at once. What it could not do now, it does later."""
    import structlog

    from counterfoil.infrastructure.database import run_in_thread
    from counterfoil.kernel.errors import Unavailable

    log = structlog.get_logger(__name__)
    try:
        done = run_in_thread(job.run)
    except Unavailable as error:
        log.warning("work.unavailable", job=job.name, code=error.code)
        return False
    except Exception:  # the loop's outermost line: the other jobs go on
        log.exception("work.failed", job=job.name)
        return False
    if done and job.name != "seal_entries":  # sealing follows every other change, and would fill the log
        log.info("work.done", job=job.name, count=done)
    return done >= job.full


def _database_jobs() -> list[Job]:
    from counterfoil.infrastructure.audit import SEAL_ENTRIES_MAX, seal_entries
    from counterfoil.infrastructure.audit_anchors import write_due_anchor
    from counterfoil.kernel.ids import new_request_id
    from counterfoil.orders.completion import complete_orders
    from counterfoil.orders.services import expire_orders
    from counterfoil.privacy.services import reapply_tombstones, retry_erasures

    def write_anchor() -> int:
        return 1 if write_due_anchor() else 0

    def reapply() -> int:
        return reapply_tombstones(request_id=new_request_id()).people_erased

    return [
        Job("reapply_tombstones", _once(reapply), 2),
        _order_job("expire_orders", expire_orders, _EXPIRY_ORDERS_MAX),
        _order_job("complete_orders", complete_orders, _COMPLETION_ORDERS_MAX),
        Job("seal_entries", seal_entries, SEAL_ENTRIES_MAX),
        Job("write_anchor", write_anchor, 2),
        Job("retry_erasures", lambda: retry_erasures(limit=_ERASURES_MAX, request_id=new_request_id()), _ERASURES_MAX),
        *_deletions(),
    ]


def _deletions() -> list[Job]:
    """Delete what has had its time."""
    from counterfoil.infrastructure.idempotency import delete_expired_keys
    from counterfoil.infrastructure.limit_stores import delete_expired_limits
    from counterfoil.infrastructure.session_store import delete_expired_sessions
    from counterfoil.notifications.services import delete_old_mails
    from counterfoil.payments.notices import delete_old_notices
    from counterfoil.users import recovery, sessions

    def delete(name: str, function: Callable[..., int]) -> Job:
        return Job(name, lambda: function(limit=_DELETED_ROWS_MAX), _DELETED_ROWS_MAX)

    return [
        delete("delete_idempotency_keys", delete_expired_keys),
        delete("delete_limits", delete_expired_limits),
        delete("delete_revocations", sessions.delete_old_revocations),
        delete("delete_sign_ins", sessions.delete_ended),
        delete("delete_links", recovery.delete_done),
        delete("delete_console_sessions", delete_expired_sessions),
        delete("delete_mails", delete_old_mails),
        delete("delete_notices", delete_old_notices),
    ]


def _order_job(name: str, run: Callable[..., int], limit: int) -> Job:
    """Make a job that moves orders on in its own name."""
    from counterfoil.kernel.ids import new_request_id
    from counterfoil.orders.commands import Trace

    actor = f"job:{name.replace('_', '-')}"
    return Job(name, lambda: run(limit=limit, trace=Trace(actor, new_request_id())), limit)


def _once(run: Callable[[], int]) -> Callable[[], int]:
    """Run something until it has succeeded once: a store of keys that is away must not keep orders from expiring."""
    succeeded = False

    def run_once() -> int:
        nonlocal succeeded
        done = 0 if succeeded else run()
        succeeded = True
        # However many: there is no more of it.
        return min(done, 1)

    return run_once


def _mail_jobs() -> list[Job]:
    from counterfoil.users.recovery import send_due_mails

    return [Job("send_mails", lambda: send_due_mails(limit=_MAILS_MAX), _MAILS_MAX)]


def _make_dispatcher() -> Dispatcher:
    """Make what asks gateways for money; an order follows what they answer."""
    from counterfoil.orders.settlement import settle
    from counterfoil.payments.dispatcher import Dispatcher
    from counterfoil.payments.wiring import gateways

    return Dispatcher(gateways(), settle)


def _gateway_jobs(stop: threading.Event) -> list[Job]:
    from counterfoil.kernel.ids import new_request_id
    from counterfoil.orders.commands import Trace
    from counterfoil.payments.reconciliation import reconcile_if_due
    from counterfoil.payments.wiring import gateways_for_lists

    def compare() -> int:
        trace = Trace("job:reconcile-gateway", new_request_id())
        found = [reconcile_if_due(gateway, trace, stop=stop) for gateway in gateways_for_lists().by_name.values()]
        return sum(each is not None for each in found)

    return [Job("reconcile_gateway", _every(_COMPARISON_LOOK_SECONDS, compare), 1000)]


def _every(seconds: float, run: Callable[[], int]) -> Callable[[], int]:
    """Run something no more often than this."""
    next_at = 0.0

    def run_seldom() -> int:
        nonlocal next_at
        if time.monotonic() < next_at:
            return 0
        next_at = time.monotonic() + seconds
        return run()

    return run_seldom
