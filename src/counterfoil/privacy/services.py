"""Privacy: forget a person, export what is known about one, and keep the dead dead after a restore.

An erasure is a list of steps in a fixed order. Each is idempotent and has a transaction of its own, which also records
it; whoever comes next, after a kill or a refusal, goes on with the first step that is not recorded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final
from uuid import UUID

import structlog

from counterfoil.infrastructure import key_store
from counterfoil.infrastructure.audit import append_entry, declare_change
from counterfoil.infrastructure.database import no_transaction, transaction
from counterfoil.infrastructure.idempotency import delete_keys_of
from counterfoil.orders import services as orders
from counterfoil.orders.commands import Trace
from counterfoil.orders.history import OrderView
from counterfoil.privacy import repositories
from counterfoil.privacy.errors import SweepRefused
from counterfoil.privacy.export import PersonalData, collect_personal_data
from counterfoil.privacy.repositories import Erasure
from counterfoil.users import services as users

__all__ = [
    "STEPS",
    "Erasure",
    "PersonalData",
    "Reapplied",
    "Sweep",
    "advance_erasure",
    "erase_person",
    "export_person",
    "list_erasures",
    "reapply_tombstones",
    "retry_erasures",
    "sweep_orphan_keys",
]

log = structlog.get_logger(__name__)

# A person who waits for the end of an order is looked after once a minute; the order itself takes half an hour or days.
RETRY_SECONDS: Final = 60
# When this process has tried an unfinished erasure last, by its own clock; at most those of one such time.
_tried_at: Final[dict[int, float]] = {}
_PAGE: Final = 500
_ORDERS_NAMED_MAX: Final = 5
# Who asks when a restored database brings erased people back: they are past waiting for the end of an order.
_REAPPLIER: Final = "job:reapply-tombstones"
# Registrations that failed leave a few; more than half of all keys are a mistake of the operator.
_ORPHANS_FREE: Final = 100


@dataclass(frozen=True, slots=True)
class _Case:
    """One erasure under way: whose, and who does it."""

    user_id: int
    subject: UUID
    trace: Trace
    must_wait: bool


class _Deferred(Exception):
    """The person has unfinished business; the text says which."""


# ---------------------------------------------------------------- steps
def _close_account(case: _Case) -> None:
    """End every access; nothing of the person's may be under way."""
    _require_no_open_order(case)
    orders.discard_drafts(case.user_id, trace=case.trace)
    _revoke_access(case)


def _revoke_access(case: _Case) -> None:
    users.revoke_access(
        case.user_id, actor=case.trace.principal, request_id=case.trace.request_id, reason="erasure of the person"
    )


def _forget_answers(case: _Case) -> None:
    delete_keys_of(subject=case.subject, principal=f"user:{case.user_id}")


def _forget_person(case: _Case) -> None:
    # Again: a batch that had looked at the account just before it was closed may have been committed since.
    _require_no_open_order(case)
    # And again: nothing adds to an account that is closed, but an erasure leaves no access behind, whatever happened.
    _revoke_access(case)
    declare_change(actor=case.trace.principal, action="user.forget", request_id=case.trace.request_id)
    users.forget_person(case.user_id)
    orders.forget_person(case.user_id)


def _shred_key(case: _Case) -> None:
    """Delete the key and write the tombstone: from here on no copy anywhere can be read."""
    key_store.shred_key(case.subject)


# In this order: first nothing new can come, then what is here goes, at last what is anywhere else becomes unreadable.
STEPS: Final[dict[str, Callable[[_Case], None]]] = {
    "close_account": _close_account,
    "forget_answers": _forget_answers,
    "forget_person": _forget_person,
    "shred_key": _shred_key,
}
_NEXT: Final = dict(pairwise(["", *STEPS]))


def _require_no_open_order(case: _Case) -> None:
    users.lock_account(case.user_id)
    open_orders = orders.find_open_orders(case.user_id)
    if not open_orders or not case.must_wait:
        return
    named = ", ".join(_name(view) for view in open_orders[:_ORDERS_NAMED_MAX])
    more = f" and {len(open_orders) - _ORDERS_NAMED_MAX} more" if len(open_orders) > _ORDERS_NAMED_MAX else ""
    raise _Deferred(f"These orders are not finished: {named}{more}.")


def _name(order: OrderView) -> str:
    money = ", its money is under way" if order.payment_in_flight else ""
    return f"{order.facts.order_id} ({order.status}{money})"


# ---------------------------------------------------------------- erasure
@no_transaction
def erase_person(user_id: int, *, actor: str, request_id: str, reason: str = "") -> Erasure:
    """Forget a person as far as that is possible now; returns how far that is. Idempotent, resumes where it stopped.

    Deferred with a reason while an order of theirs is open; the worker tries again. Raises UserNotFound and
    LastAdministrator.
    """
    # The last step needs the store: while it is away, nothing is begun.
    key_store.find_keys([users.find_subject(user_id)])
    with transaction():
        declare_change(actor=actor, action="erasure.request", request_id=request_id, reason=reason)
        users.request_erasure(user_id, again=actor == _REAPPLIER)
        repositories.insert_request(user_id, requested_by=actor)
    while advance_erasure(user_id, actor=actor, request_id=request_id, reason=reason):
        pass
    erasure = repositories.read_request(user_id)
    assert erasure is not None, user_id
    return erasure


@no_transaction
def advance_erasure(user_id: int, *, actor: str, request_id: str, reason: str = "") -> bool:
    """Do the next step of a requested erasure, in a transaction of its own; returns whether there are more to do."""
    try:
        with transaction():
            return _advance(user_id, Trace(actor, request_id), reason)
    except _Deferred as deferred:
        with transaction():
            declare_change(actor=actor, action="erasure.defer", request_id=request_id)
            repositories.write_reason(user_id, reason=str(deferred))
        return False


def _advance(user_id: int, trace: Trace, reason: str = "") -> bool:
    request = repositories.lock_request(user_id)
    assert request is not None, user_id
    step = _NEXT.get(request.step)
    if step is None:
        return False
    # Nothing is opened here: whose data or key is damaged can be erased as well.
    subject = users.find_subject(user_id)
    STEPS[step](_Case(user_id, subject, trace, must_wait=request.requested_by != _REAPPLIER))
    declare_change(actor=trace.principal, action="erasure.advance", request_id=trace.request_id)
    repositories.write_step(user_id, step=step, last=step not in _NEXT)
    append_entry(
        actor=trace.principal,
        action="user.erase",
        target="user",
        target_id=user_id,
        request_id=trace.request_id,
        reason=reason,
        changes={"step": step},
    )
    return step in _NEXT


@no_transaction
def retry_erasures(*, limit: int, request_id: str, retry_seconds: int = RETRY_SECONDS) -> int:
    """Go on with erasures that were deferred or interrupted; returns how many came to their end.

    Any number of workers may do this. When each was tried last is in the worker's memory: to write it down would leave
    an audit entry a minute for as long as an order is open.
    """
    now = time.monotonic()
    for user_id in [user_id for user_id, tried in _tried_at.items() if tried <= now - retry_seconds]:
        del _tried_at[user_id]
    waiting = repositories.read_waiting(waited_seconds=retry_seconds, but=list(_tried_at), limit=limit)
    _tried_at.update(dict.fromkeys(waiting, now))
    done = [_try_to_erase(user_id, actor="job:erase-people", request_id=request_id) for user_id in waiting]
    return sum(erasure is not None and erasure.completed_at is not None for erasure in done)


def _try_to_erase(user_id: int, *, actor: str, request_id: str) -> Erasure | None:
    """Go on with one person's erasure; what goes wrong with it is logged, and keeps nobody else's waiting."""
    try:
        return erase_person(user_id, actor=actor, request_id=request_id)
    except Exception:  # the line of a loop where one person's trouble ends
        log.exception("privacy.erasure_failed", user_id=user_id)
        return None


def list_erasures(*, limit: int) -> list[Erasure]:
    """Return up to `limit` requests, unfinished ones first."""
    return repositories.read_requests(limit=limit)


# ---------------------------------------------------------------- after a restore
@dataclass(frozen=True, slots=True)
class Reapplied:
    """What a restore had brought back: people erased again, keys deleted again; and how many tombstones there are."""

    tombstones: int
    people_erased: int
    keys_deleted: int


@no_transaction
def reapply_tombstones(*, request_id: str) -> Reapplied:
    """Erase again whoever a restored database, or a restored key store, has brought back. Idempotent."""
    tombstones, people, after = 0, 0, None
    while page := key_store.read_tombstones(after=after, limit=_PAGE):
        tombstones, after = tombstones + len(page), page[-1]
        for user_id, erased in users.find_by_subjects(page).values():
            if not erased:
                with transaction():
                    declare_change(actor=_REAPPLIER, action="erasure.request", request_id=request_id)
                    repositories.take_over_request(user_id, requested_by=_REAPPLIER)
                people += _try_to_erase(user_id, actor=_REAPPLIER, request_id=request_id) is not None
    return Reapplied(tombstones, people, _delete_keys_of_erased())


def _delete_keys_of_erased() -> int:
    deleted, after = 0, 0
    while page := users.find_erased(after=after, limit=_PAGE):
        after = page[-1][0]
        for subject in key_store.find_keys([subject for _, subject in page]):
            key_store.shred_key(subject)
            deleted += 1
    return deleted


# ---------------------------------------------------------------- export and keys
@no_transaction
def export_person(
    user_id: int, *, actor: str, request_id: str, orders_max: int | None, reason: str = ""
) -> PersonalData:
    """Return everything that is known about a person, and record that it was asked for.

    Raises UserNotFound, and ExportTooLarge for more than `orders_max` orders (None: any number).
    """
    with transaction():
        found = collect_personal_data(user_id, orders_max=orders_max)
        append_entry(
            actor=actor,
            action="user.export",
            target="user",
            target_id=user_id,
            request_id=request_id,
            reason=reason,
        )
    return found


@dataclass(frozen=True, slots=True)
class Sweep:
    """How many keys were looked at, how many of them nobody needs, and how many of those were deleted."""

    looked_at: int
    orphans: int
    deleted: int


@no_transaction
def sweep_orphan_keys(*, older_than_hours: int, delete: bool) -> Sweep:
    """Find, and `delete` when wanted, old keys of people without an account. Raises SweepRefused for most of them."""
    looked_at, after = 0, None
    orphans: list[UUID] = []
    while page := key_store.read_subjects(created_before_hours=older_than_hours, after=after, limit=_PAGE):
        looked_at, after = looked_at + len(page), page[-1]
        known = users.find_by_subjects(page)
        orphans += [subject for subject in page if subject not in known]
    if delete and len(orphans) > max(_ORPHANS_FREE, looked_at // 2):
        raise SweepRefused(orphans=len(orphans), looked_at=looked_at)
    for subject in orphans if delete else ():
        key_store.discard_key(subject)
    return Sweep(looked_at, len(orphans), len(orphans) if delete else 0)
