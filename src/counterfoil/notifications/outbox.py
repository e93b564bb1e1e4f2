"""Mails as files, for a service without a mail server: open one, and see what would have been sent."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from django.conf import settings
from django.core.mail import EmailMessage
from django.core.mail.backends.base import BaseEmailBackend

_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_.-]")


class FileBackend(BaseEmailBackend):
    """Writes each mail to `<Message-ID>.eml` in COUNTERFOIL_OUTBOX_DIR, readable by its owner only."""

    def send_messages(self, email_messages: Sequence[EmailMessage]) -> int:
        """Write mails; the same one again replaces its file. Returns how many."""
        directory: Path = settings.COUNTERFOIL.counterfoil_outbox_dir
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for message in email_messages:
            mail = message.message()
            name = _UNSAFE.sub("", str(mail["Message-ID"]).partition("@")[0])
            # In one step: a reader sees a whole mail or none.
            descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".")
            with os.fdopen(descriptor, "wb") as file:
                file.write(mail.as_bytes())
            Path(temporary).replace(directory / f"{name}.eml")
        return len(email_messages)
