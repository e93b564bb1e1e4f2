"""Idempotency keys of requests: of those done in one transaction, and of those that begin what is answered later."""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import psycopg
from django.db import OperationalError

from counterfoil.infrastructure.database import fetch_one, transaction, transaction_required
from counterfoil.infrastructure.encryption import open_seal, seal
from counterfoil.infrastructure.key_store import FINGERPRINT, loaded_key, read_keys
from counterfoil.kernel.errors import Conflict, Invalid, NotFound

# Three days: longer than any client's retries of an order over a weekend.
KEY_HOURS: Final = 72
# Money and stock keep their keys longer: 30 days.
KEY_HOURS_LONG: Final = 720
_KEY: Final = re.compile(r"[A-Za-z0-9_.:-]{16,255}")


class IdempotencyKeyInvalid(Invalid):
    """The header Idempotency-Key needs 16 to 255 characters out of letters, digits and `_ . : -`."""

    code = "IDEMPOTENCY_KEY_INVALID"


class IdempotencyKeyMissing(Invalid):
    """This request needs a header Idempotency-Key with a fresh value, such as a UUID, so that it is done only once."""

    code = "IDEMPOTENCY_KEY_MISSING"


class IdempotencyKeyReused(Invalid):
    """This Idempotency-Key was used for another request; use a fresh key for a new request."""

    code = "IDEMPOTENCY_KEY_REUSED"


class AnswerErased(NotFound):
    """The answer to this request was about a person whose data has been erased, and was erased with it."""

    code = "ANSWER_ERASED"


class IdempotencyInProgress(Conflict):
    """The first request with this Idempotency-Key is still running; ask again in a second."""

    code = "IDEMPOTENCY_IN_PROGRESS"


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer: HTTP status, body as sent, and whether it is a replay.

    An answer about a person names them as `subject`: it is stored sealed with their key and ends with it. `kept` is
    stored instead of the body when that has something in it that is shown once, such as a new API key.
    """

    status: int
    body: bytes
    replayed: bool
    subject: UUID | None = None
    kept: bytes | None = None


def read_key(header: str | None) -> str | None:
    """Return the key of a header, bare or quoted; None when absent. Raises IdempotencyKeyInvalid."""
    if header is None:
        return None
    key = header[1:-1] if len(header) > 1 and header[0] == header[-1] == '"' else header
    if _KEY.fullmatch(key) is None:
        raise IdempotencyKeyInvalid
    return key


def fingerprint_request(route: str, canonical_body: bytes) -> bytes:
    """Return 32 bytes that are the same only for the same method, route, API version and canonical body."""
    # Keyed, because a body may hold a password: its plain hash in the table could be tried against a dictionary. A key
    # of its own, loaded at start-up: the signing secret may change between a request and its retry.
    return hmac.digest(loaded_key(FINGERPRINT), route.encode() + b"\0v1\0" + canonical_body, "sha256")


def answer_once(
    *,
    principal: str,
    key: str | None,
    fingerprint: bytes,
    hours: int,
    execute: Callable[[], Answer],
    authorise: Callable[[], None] | None = None,
) -> Answer:
    """Run `execute` for a new key, or return the stored answer. Opens the transaction that both share.

    The key's row is written first, so a concurrent request with the same key waits for this transaction. An
    exception of `execute` rolls the key back with everything else. `authorise` raises when the caller may not have a
    stored answer any more; `execute` checks that by itself. Raises IdempotencyKeyReused, and
    IdempotencyInProgress after 2 s of waiting for the other one.
    """
    with transaction():
        if key is None:
            return execute()
        if _claim(principal, key, fingerprint, hours) is None:
            if authorise is not None:
                authorise()
            return _stored_answer(principal, key, fingerprint)
        answer = execute()
        _store_answer(principal, key, answer)
        return answer


def begin_once(
    *,
    principal: str,
    key: str,
    fingerprint: bytes,
    hours: int,
    begin: Callable[[int | None], Answer | int],
    authorise: Callable[[], None],
) -> Answer | int:
    """Begin what is answered later, such as a payment: the key is claimed now, and its answer stored by `finish_once`.

    `begin` returns the id of what it began, which is kept with the key, or an answer when there is nothing to wait for.
    A repetition before the answer gets that id passed to it, and joins or resumes what was begun; one after it gets the
    stored answer. All of it in one transaction, so that a key is never claimed for nothing: an exception of `begin`
    gives the key back, or leaves it as it was. `authorise` raises when the caller may not have this any more. Raises
    IdempotencyKeyReused, and IdempotencyInProgress after 2 s of waiting for another request that begins.
    """
    with transaction():
        known: int | None = None
        if _claim(principal, key, fingerprint, hours) is None:
            authorise()
            found = _lock_begun(principal, key, fingerprint)
            if isinstance(found, Answer):
                return found
            known = found
        begun = begin(known)
        if isinstance(begun, Answer):
            _store_answer(principal, key, begun)
        elif begun != known:
            fetch_one(
                "UPDATE idempotency_keys SET begun_id = %(id)s WHERE principal = %(principal)s AND key = %(key)s"
                " RETURNING 1",
                {"principal": principal, "key": key, "id": begun},
            )
        return begun


def finish_once(*, principal: str, key: str, fingerprint: bytes, answer: Answer) -> Answer:
    """Store the answer to what was begun, and return what is to be sent: the first that was stored.

    Opens a transaction. A key that is gone meanwhile, with its person or its time, leaves the answer as it is.
    """
    with transaction():
        try:
            known = _lock_begun(principal, key, fingerprint)
        except (IdempotencyInProgress, IdempotencyKeyReused):
            return answer
        if isinstance(known, Answer):
            return known
        _store_answer(principal, key, answer)
        return answer


def _lock_begun(principal: str, key: str, fingerprint: bytes) -> Answer | int | None:
    """Lock a key that was claimed before; returns its answer, or the id of what was begun with it."""
    row = fetch_one(
        "SELECT fingerprint, begun_id, response_body IS NULL FROM idempotency_keys"
        " WHERE principal = %(principal)s AND key = %(key)s FOR UPDATE",
        {"principal": principal, "key": key},
    )
    if row is None:
        raise IdempotencyInProgress
    if bytes(row[0]) != fingerprint:
        raise IdempotencyKeyReused
    return row[1] if row[2] else _stored_answer(principal, key, fingerprint)


def is_used(*, principal: str, key: str) -> bool:
    """Tell whether a key stands for a request already, so that nothing has to be prepared for its effect."""
    sql = "SELECT 1 FROM idempotency_keys WHERE principal = %(principal)s AND key = %(key)s AND expires_at > now()"
    return fetch_one(sql, {"principal": principal, "key": key}) is not None


def _store_answer(principal: str, key: str, answer: Answer) -> None:
    body, subject = answer.body if answer.kept is None else answer.kept, answer.subject
    if subject is not None:
        body = seal(read_keys([subject])[subject], body, place=_place(subject))
    fetch_one(
        "UPDATE idempotency_keys SET response_status = %(status)s, response_body = %(body)s, subject_id = %(subject)s"
        " WHERE principal = %(principal)s AND key = %(key)s RETURNING 1",
        {"principal": principal, "key": key, "status": answer.status, "body": body, "subject": subject},
    )


def _place(subject: UUID) -> str:
    return f"idempotency_keys.response_body|{subject}"


def _claim(principal: str, key: str, fingerprint: bytes, hours: int) -> tuple[object, ...] | None:
    try:
        return fetch_one(
            """
            INSERT INTO idempotency_keys AS k (principal, key, fingerprint, expires_at)
            VALUES (%(principal)s, %(key)s, %(fingerprint)s, now() + make_interval(hours => %(hours)s))
            ON CONFLICT (principal, key) DO UPDATE
              SET fingerprint = excluded.fingerprint, response_status = NULL, response_body = NULL, resource_id = NULL,
                  begun_id = NULL, subject_id = NULL, created_at = now(), expires_at = excluded.expires_at
              WHERE k.expires_at <= now()
            RETURNING 1
            """,
            {"principal": principal, "key": key, "fingerprint": fingerprint, "hours": hours},
        )
    except OperationalError as error:
        # Somebody writes the same key at this moment and did not finish within lock_timeout (2 s).
        if isinstance(error.__cause__, psycopg.errors.LockNotAvailable):
            raise IdempotencyInProgress from error
        raise


def _stored_answer(principal: str, key: str, fingerprint: bytes) -> Answer:
    row = fetch_one(
        "SELECT fingerprint, response_status, response_body, subject_id FROM idempotency_keys"
        " WHERE principal = %(principal)s AND key = %(key)s",
        {"principal": principal, "key": key},
    )
    if row is None:
        raise IdempotencyInProgress
    if bytes(row[0]) != fingerprint or row[2] is None:
        raise IdempotencyKeyReused
    body, subject = bytes(row[2]), row[3]
    if subject is not None:
        subject_key = read_keys([subject]).get(subject)
        if subject_key is None:
            raise AnswerErased
        body = open_seal(subject_key, body, place=_place(subject))
    return Answer(status=row[1], body=body, replayed=True, subject=subject)


@transaction_required
def delete_keys_of(*, subject: UUID, principal: str) -> int:
    """Delete the keys used by a principal and every answer about a person; returns how many. Joins the transaction."""
    row = fetch_one(
        """
        WITH gone AS (
          DELETE FROM idempotency_keys WHERE principal = %(principal)s OR subject_id = %(subject)s RETURNING 1)
        SELECT count(*) FROM gone
        """,
        {"principal": principal, "subject": subject},
    )
    assert row is not None
    return int(row[0])


def delete_expired_keys(*, limit: int) -> int:
    """Delete up to `limit` keys past their time, in a transaction of its own; returns how many."""
    with transaction():
        row = fetch_one(
            """
            WITH gone AS (
              DELETE FROM idempotency_keys WHERE (principal, key) IN (
                SELECT principal, key FROM idempotency_keys WHERE expires_at <= now()
                ORDER BY expires_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
              RETURNING 1)
            SELECT count(*) FROM gone
            """,
            {"limit": limit},
        )
    assert row is not None
    return int(row[0])
