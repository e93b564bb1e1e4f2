"""All SQL of one-time tokens: wishes for a mail with a link, and the use of the link."""

from __future__ import annotations

from typing import Final, NamedTuple
from uuid import UUID

from counterfoil.infrastructure.database import fetch_all, fetch_one, transaction_required

# Somebody who asks again and again for another's address fills no mailbox.
MAILS_PER_HOUR_MAX: Final = 5
# Purpose → how its mails' ids begin.
_MAILS: Final = {"confirm_email": "confirm", "reset_password": "reset"}


class Wish(NamedTuple):
    """A mail that is due, taken by this worker for as long as its lease."""

    id: UUID
    purpose: str
    user_id: int
    attempts: int


@transaction_required
def insert_wish(wish_id: UUID, *, purpose: str, user_id: int | None) -> None:
    """Record the wish for a mail; without an account the same row is written, so that it takes the same time.

    The account is held until the end of the open transaction: its erasure finds the wish. One that is being erased, or
    was closed since it was looked up, gets none.
    """
    fetch_all(
        "INSERT INTO one_time_tokens (id, purpose, user_id) VALUES (%(id)s, %(purpose)s,"
        " (SELECT id FROM users WHERE id = %(user)s AND is_active AND erasure_requested_at IS NULL FOR SHARE))",
        {"id": wish_id, "purpose": purpose, "user": user_id},
    )


@transaction_required
def delete_ownerless(*, limit: int) -> int:
    """Delete wishes that belong to no account; returns how many. Joins the open transaction."""
    return len(
        fetch_all(
            """
            DELETE FROM one_time_tokens WHERE id IN (
              SELECT id FROM one_time_tokens WHERE next_attempt_at <= now() AND user_id IS NULL
              ORDER BY next_attempt_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
            RETURNING 1
            """,
            {"limit": limit},
        )
    )


@transaction_required
def claim_wish(*, lease_seconds: int) -> Wish | None:
    """Take the wish that is due longest, for `lease_seconds`; None when there is none. Joins the open transaction."""
    row = fetch_one(
        """
        UPDATE one_time_tokens SET attempts = attempts + 1,
               next_attempt_at = now() + make_interval(secs => %(lease)s)
        WHERE id = (
          SELECT id FROM one_time_tokens WHERE next_attempt_at <= now() AND user_id IS NOT NULL
          ORDER BY next_attempt_at LIMIT 1 FOR UPDATE SKIP LOCKED)
        RETURNING id, purpose, user_id, attempts
        """,
        {"lease": lease_seconds},
    )
    return None if row is None else Wish(*row)


@transaction_required
def prepare_token(wish: Wish, token_hash: bytes, *, life_seconds: int) -> bool:
    """Store the token's hash and void the older ones of the same account and purpose, sent or not.

    Joins the open transaction. Returns False, and gives this wish up, when a newer one has come already, or when the
    account was sent MAILS_PER_HOUR_MAX within the last hour: then the link of the last mail goes on working.
    """
    same = {"id": wish.id, "purpose": wish.purpose, "user": wish.user_id}
    row = fetch_one(
        """
        UPDATE one_time_tokens t SET
          token_hash = %(hash)s,
          expires_at = now() + make_interval(secs => %(life)s),
          cancelled_at = CASE WHEN n.void THEN now() END,
          next_attempt_at = CASE WHEN NOT n.void THEN t.next_attempt_at END
        FROM (
          SELECT coalesce(bool_or(id > %(id)s), false)
                 OR count(*) FILTER (WHERE id <> %(id)s AND sent_at > now() - interval '1 hour') >= %(most)s AS void
          FROM one_time_tokens WHERE user_id = %(user)s AND purpose = %(purpose)s
        ) n
        WHERE t.id = %(id)s AND t.cancelled_at IS NULL RETURNING NOT n.void
        """,
        {**same, "hash": token_hash, "life": life_seconds, "most": MAILS_PER_HOUR_MAX},
    )
    if row is None or not row[0]:
        return False
    _void_older(same)
    return True


def _void_older(same: dict[str, object]) -> None:
    fetch_all(
        """
        UPDATE one_time_tokens SET cancelled_at = now(), next_attempt_at = NULL
        WHERE id IN (
          SELECT id FROM one_time_tokens
          WHERE user_id = %(user)s AND purpose = %(purpose)s AND id < %(id)s
            AND cancelled_at IS NULL AND used_at IS NULL
          ORDER BY id FOR UPDATE)
        """,
        same,
    )


def mail_id_of(wish_id: UUID, purpose: str) -> str:
    """Return the id of a wish's mail: short, so that the header stays on one line."""
    return f"{_MAILS[purpose]}-{wish_id.hex}"


def read_mail_ids(user_id: int) -> list[str]:
    """Return the ids of all mails that an account's wishes may have led to."""
    rows = fetch_all("SELECT id, purpose FROM one_time_tokens WHERE user_id = %(id)s", {"id": user_id})
    return [mail_id_of(*row) for row in rows]


@transaction_required
def mark_sent(wish_id: UUID, *, life_seconds: int) -> bool:
    """Record that the mail is on its way; its life begins now. Joins the open transaction.

    Returns False when the wish is gone: its owner was erased meanwhile.
    """
    row = fetch_one(
        "UPDATE one_time_tokens SET sent_at = now(), next_attempt_at = NULL,"
        " expires_at = now() + make_interval(secs => %(life)s) WHERE id = %(id)s RETURNING 1",
        {"id": wish_id, "life": life_seconds},
    )
    return row is not None


@transaction_required
def postpone(wish_id: UUID, *, seconds: float) -> None:
    """Try the mail again after a while. Joins the open transaction."""
    fetch_all(
        "UPDATE one_time_tokens SET next_attempt_at = now() + make_interval(secs => %(seconds)s)"
        " WHERE id = %(id)s AND next_attempt_at IS NOT NULL",
        {"id": wish_id, "seconds": seconds},
    )


@transaction_required
def cancel(wish_id: UUID) -> None:
    """Give up a wish. Joins the open transaction."""
    fetch_all(
        "UPDATE one_time_tokens SET cancelled_at = now(), next_attempt_at = NULL WHERE id = %(id)s", {"id": wish_id}
    )


def find_owner(token_hash: bytes) -> int | None:
    """Return the account a token was made for, dead or alive, or None."""
    row = fetch_one("SELECT user_id FROM one_time_tokens WHERE token_hash = %(hash)s", {"hash": token_hash})
    return None if row is None else int(row[0])


def find_usable(token_hash: bytes, *, purpose: str) -> int | None:
    """Return the account of a living, unused token for this purpose, or None; the token stays unused."""
    row = fetch_one(
        "SELECT user_id FROM one_time_tokens WHERE token_hash = %(hash)s AND purpose = %(purpose)s"
        " AND used_at IS NULL AND cancelled_at IS NULL AND expires_at > now()",
        {"hash": token_hash, "purpose": purpose},
    )
    return None if row is None else int(row[0])


@transaction_required
def use_token(token_hash: bytes, *, purpose: str) -> int | None:
    """Use a token up and return its account, or None when it is not a living, unused one for this purpose.

    Joins the open transaction. Of many at the same time one gets it.
    """
    row = fetch_one(
        "UPDATE one_time_tokens SET used_at = now() WHERE token_hash = %(hash)s AND purpose = %(purpose)s"
        " AND used_at IS NULL AND cancelled_at IS NULL AND expires_at > now() RETURNING user_id",
        {"hash": token_hash, "purpose": purpose},
    )
    return None if row is None else int(row[0])


@transaction_required
def delete_done(*, limit: int) -> int:
    """Delete tokens that ended a month ago or earlier; returns how many. Joins the open transaction."""
    return len(
        fetch_all(
            """
            DELETE FROM one_time_tokens WHERE id IN (
              SELECT id FROM one_time_tokens
              WHERE next_attempt_at IS NULL AND requested_at < now() - interval '30 days'
              ORDER BY requested_at LIMIT %(limit)s FOR UPDATE SKIP LOCKED)
            RETURNING 1
            """,
            {"limit": limit},
        )
    )
