"""Mails as files, for a service without a mail server: open one, and see what would have been sent."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]")


# Longer than a link in a mail works, so that it can be looked at; the addresses in old files serve nobody.
FILE_DAYS: Final = 7


def delete_files(mail_ids: Sequence[str]) -> None:
    """Delete the files of these mails, those that there are."""
    for mail_id in mail_ids:
        (settings.COUNTERFOIL.counterfoil_outbox_dir / f"{_name(mail_id)}.eml").unlink(missing_ok=True)


def delete_old_files(*, limit: int) -> int:
    """Delete up to `limit` mails that are older than FILE_DAYS, and what killed writers left; returns how many."""
    before, done = time.time() - FILE_DAYS * 86_400, 0
    for path in settings.COUNTERFOIL.counterfoil_outbox_dir.glob("*"):
        if done == limit:
            break
        if (path.suffix == ".eml" or path.name.startswith(".")) and path.stat().st_mtime < before:
            path.unlink(missing_ok=True)
            done += 1
    return done


def _name(message_id: str) -> str:
    return _UNSAFE.sub("", message_id.strip("<").partition("@")[0])


class FileBackend(BaseEmailBackend):
    """Writes each mail to `<Message-ID>.eml` in COUNTERFOIL_OUTBOX_DIR, readable by its owner only."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Write mails; the same one again replaces its file. Returns how many."""
        directory: Path = settings.COUNTERFOIL.counterfoil_outbox_dir
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for message in email_messages:
            mail = message.message()
            name = _name(str(mail["Message-ID"]))
            # In one step: a reader sees a whole mail or none.
            descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".")
            with os.fdopen(descriptor, "wb") as file:
                file.write(mail.as_bytes())
            Path(temporary).replace(directory / f"{name}.eml")
        return len(email_messages)
