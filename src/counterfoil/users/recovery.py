"""Links that work once: to confirm an e-mail address, and to choose a new password.

A request records a wish and nothing else, whether there is such an account or not. The worker makes the token, stores
its hash and sends the mail, at least once: what cannot be sent is tried again, with the same token.
"""

from __future__ import annotations

import base64
import functools
import hmac
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

import structlog
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.db.models.functions import Now

from counterfoil.infrastructure.audit import declare_change
from counterfoil.infrastructure.database import no_transaction, transaction, transaction_required
from counterfoil.kernel.ids import new_request_id, new_uuid7
from counterfoil.notifications.services import MailNotSent, discard_mails, send_mail
from counterfoil.users import access_repositories, recovery_repositories, repositories
from counterfoil.users.access import hash_token
from counterfoil.users.attempts import known_name
from counterfoil.users.errors import OneTimeTokenInvalid
from counterfoil.users.passwords import hash_password
from counterfoil.users.recovery_repositories import Wish
from counterfoil.users.services import normalise_email

log = structlog.get_logger(__name__)

CONFIRM: Final = "confirm_email"
RESET: Final = "reset_password"
# Seconds a token lives after its mail was sent: three days, and one hour.
LIFE_SECONDS: Final = {CONFIRM: 3 * 86_400, RESET: 3600}
# The shop's pages that read the token. Behind a `#`: a browser does not send it to anybody by itself.
_PAGES: Final = {CONFIRM: "confirm-email", RESET: "reset-password"}
_PREFIX: Final = "cft_"
# Longer than a mail server may take to answer; after it, another worker tries.
_LEASE_SECONDS: Final = 120
_ATTEMPTS_MAX: Final = 10
_BACKOFF_SECONDS: Final = (30, 6 * 3600)
# Who asks for a mail has shown nothing yet.
_ANYBODY: Final = "anonymous"


# ---------------------------------------------------------------- wishes
@transaction_required
def request_confirmation(user_id: int) -> None:
    """Wish for the mail that confirms a new account's address. Joins the transaction that declared the new account."""
    recovery_repositories.insert_wish(new_uuid7(), purpose=CONFIRM, user_id=user_id)


@transaction_required
def request_confirmation_again(email: str, *, request_id: str) -> None:
    """Wish for that mail again; nobody learns whether there is an account. Joins the open transaction."""
    declare_change(actor=_ANYBODY, action="user.request_confirmation", request_id=request_id)
    found = _find(email)
    wanted = found is not None and found.email_confirmed_at is None
    recovery_repositories.insert_wish(new_uuid7(), purpose=CONFIRM, user_id=found.id if wanted and found else None)


@transaction_required
def request_password_reset(email: str, *, request_id: str) -> None:
    """Wish for a link to a new password; nobody learns whether there is an account. Joins the open transaction."""
    declare_change(actor=_ANYBODY, action="user.request_password_reset", request_id=request_id)
    found = _find(email)
    recovery_repositories.insert_wish(new_uuid7(), purpose=RESET, user_id=None if found is None else found.id)


def _find(email: str) -> repositories.UserRecord | None:
    try:
        found = repositories.read_credentials(normalise_email(email))
    except ValueError:
        return None
    return None if found is None else found[0]


# ---------------------------------------------------------------- uses
@transaction_required
def confirm_email(token: str, *, request_id: str) -> None:
    """Record that the owner of an account reads its mail. Joins the open transaction. Raises OneTimeTokenInvalid."""
    user = _use(token, CONFIRM, "user.confirm_email", request_id)
    repositories.update_user(user.id, {"email_confirmed_at": Now()}, None)


@no_transaction
def reset_password(token: str, *, password: str, address: str, request_id: str) -> None:
    """Set a new password, which ends every session and access token. Opens its own transaction.

    The account is known at `address` from here on: whoever has just set the password is no stranger.

    Raises OneTimeTokenInvalid, or ValidationFailed for a weak password, which leaves the token usable.
    """
    # Looked at before it is used: hashing takes long, and is not done for whoever has no link, nor in the transaction.
    user_id = recovery_repositories.find_usable(hash_token(token), purpose=RESET)
    found = None if user_id is None else repositories.read_user(user_id)
    if found is None or not found.is_active:
        raise OneTimeTokenInvalid
    written = {"password": hash_password(password, email=found.email, name=found.name)}
    with transaction():
        user = _use(token, RESET, "user.reset_password", request_id)
        # Whoever has the mail has the address.
        confirmed = {} if user.email_confirmed_at else {"email_confirmed_at": Now()}
        repositories.update_user(user.id, {**written, **confirmed}, None)
        access_repositories.insert_ended_sign_in(
            new_uuid7(), user_id=user.id, reason="password reset", address_hash=known_name(address)
        )


def _use(token: str, purpose: str, action: str, request_id: str) -> repositories.UserRecord:
    token_hash = hash_token(token)
    owner = recovery_repositories.find_owner(token_hash)
    if owner is None:
        raise OneTimeTokenInvalid
    # Whoever has the mail acts as the account.
    declare_change(actor=f"user:{owner}", action=action, request_id=request_id)
    user_id = recovery_repositories.use_token(token_hash, purpose=purpose)
    user = None if user_id is None else repositories.lock_user(user_id)
    if user is None or not user.is_active:
        raise OneTimeTokenInvalid
    return user


# ---------------------------------------------------------------- the worker's part
@no_transaction
def send_due_mails(*, limit: int) -> int:
    """Send up to `limit` mails that are due; returns how many were tried. Any number of workers may do this."""
    with _job("job:send-mails"):
        recovery_repositories.delete_ownerless(limit=1000)
    tried = 0
    while tried < limit:
        with _job("job:send-mails"):
            wish = recovery_repositories.claim_wish(lease_seconds=_LEASE_SECONDS)
            token = None if wish is None else make_token(wish.id)
            wanted = (
                wish is not None
                and token is not None
                and recovery_repositories.prepare_token(
                    wish, hash_token(token), life_seconds=LIFE_SECONDS[wish.purpose]
                )
            )
        if wish is None or token is None:
            break
        tried += 1
        if wanted:
            _send(wish, token)
    return tried


def delete_done(*, limit: int) -> int:
    """Delete up to `limit` tokens that ended long ago. Opens its own transaction; returns how many."""
    with _job("job:delete-ended"):
        return recovery_repositories.delete_done(limit=limit)


@contextmanager
def _job(actor: str) -> Iterator[None]:
    """Open a transaction of the worker's and say that it is the worker who changes something."""
    with transaction():
        declare_change(actor=actor, action="one_time_token.advance", request_id=new_request_id())
        yield


def make_token(wish_id: UUID) -> str:
    """Return the token of a wish: the same each time, so that a mail that is sent twice is the same mail.

    Known to whoever has the secret and the row, and to nobody who has only one of them.
    """
    digest = hmac.digest(_token_key(settings.SECRET_KEY), wish_id.bytes, "sha256")
    return _PREFIX + base64.urlsafe_b64encode(digest).decode().rstrip("=")


@functools.lru_cache(maxsize=1)
def _token_key(secret: str) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=b"counterfoil one-time token v1").derive(secret.encode())


def _send(wish: Wish, token: str) -> None:
    user = repositories.read_user(wish.user_id)
    life = LIFE_SECONDS[wish.purpose]
    if user is None or not user.is_active or (wish.purpose == CONFIRM and user.email_confirmed_at is not None):
        with _job("job:send-mails"):
            recovery_repositories.cancel(wish.id)
        return
    link = f"{settings.COUNTERFOIL.counterfoil_public_url}/{_PAGES[wish.purpose]}#token={token}"
    # No name: whoever registers with somebody else's address could write to them with it.
    values = {"link": link, "hours": life // 3600}
    mail_id = recovery_repositories.mail_id_of(wish.id, wish.purpose)
    try:
        send_mail(wish.purpose, to=user.email, mail_id=mail_id, values=values)
    except MailNotSent as error:
        _postpone(wish, str(error))
        return
    with _job("job:send-mails"):
        wanted = recovery_repositories.mark_sent(wish.id, life_seconds=life)
    if not wanted:
        discard_mails([mail_id])
    log.info(
        "mail.sent" if settings.EMAIL_HOST else "mail.written",
        template=wish.purpose,
        mail=str(wish.id),
        attempt=wish.attempts,
    )


def _postpone(wish: Wish, error: str) -> None:
    """Wait longer each time, with jitter; after the last attempt the wish is given up and logged."""
    low, high = _BACKOFF_SECONDS
    seconds = min(high, random.uniform(low, low * 3**wish.attempts))  # noqa: S311 - jitter, not a secret
    last = wish.attempts >= _ATTEMPTS_MAX
    with _job("job:send-mails"):
        if last:
            recovery_repositories.cancel(wish.id)
        else:
            recovery_repositories.postpone(wish.id, seconds=seconds)
    log.log(
        40 if last else 30,
        "mail.given_up" if last else "mail.postponed",
        template=wish.purpose,
        mail=str(wish.id),
        attempt=wish.attempts,
        error=error,
    )
