"""Mails: a text and a page from one set of values, sent by the worker and never inside a transaction."""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import formataddr
from typing import Final
from urllib.parse import urlsplit

from django.conf import settings
from django.core.mail import EmailMultiAlternatives
from django.template.loader import render_to_string

from counterfoil.infrastructure.database import no_transaction
from counterfoil.notifications import outbox

# Template → subject. Fixed text: nothing that somebody entered gets into a header but the address.
SUBJECTS: Final = {
    "confirm_email": "Confirm your e-mail address",
    "reset_password": "Choose a new password",
}


class MailNotSent(Exception):
    """The mail server could not be reached or did not take the mail; it may be tried again."""


def discard_mails(mail_ids: Sequence[str]) -> None:
    """Delete what lies here of these mails: their files, where there is no mail server. Idempotent."""
    if _writes_files():
        outbox.delete_files(mail_ids)


def delete_old_mails(*, limit: int) -> int:
    """Delete up to `limit` files of old mails, where there is no mail server; returns how many."""
    return outbox.delete_old_files(limit=limit) if _writes_files() else 0


def _writes_files() -> bool:
    return bool(f"{outbox.FileBackend.__module__}.{outbox.FileBackend.__name__}" == settings.EMAIL_BACKEND)


@no_transaction
def send_mail(template: str, *, to: str, mail_id: str, values: dict[str, object]) -> None:
    """Send one mail; raises MailNotSent. The same `mail_id` gives the same Message-ID, so that a repetition is known.

    `values` are the template's; text is escaped in the page and not in the plain text.
    """
    message = EmailMultiAlternatives(
        subject=SUBJECTS[template],
        body=render_to_string(f"mail/{template}.txt", values),
        to=[formataddr(("", to))],
        headers={
            "Message-ID": f"<{mail_id}@{urlsplit(settings.COUNTERFOIL.counterfoil_public_url).hostname}>",
            "Auto-Submitted": "auto-generated",
        },
    )
    message.attach_alternative(render_to_string(f"mail/{template}.html", values), "text/html")
    try:
        message.send()
    except (OSError, ValueError) as error:  # smtplib's errors are OSErrors; an address that no header takes is a value
        raise MailNotSent(type(error).__name__) from error
