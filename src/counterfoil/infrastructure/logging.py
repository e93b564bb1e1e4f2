"""Logs: one JSON object a line, events with fields, nothing personal."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
import structlog

# Names of fields whose values never reach a log, wherever they come from.
REDACTED: Final = frozenset({"password", "token", "authorization", "email", "name", "phone", "address", "secret"})
_encode: Final = msgspec.json.Encoder(enc_hook=str).encode


def configure_logging(level: str) -> None:
    """Send structlog's events to standard error as JSON lines, and the standard library's warnings through it."""
    threshold = logging.getLevelNamesMapping()[level]
    structlog.configure(
        processors=[_render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_ToStructlog()], force=True)
    # Silenced for commands in a terminal (cli/service.py); a server wants to know.
    logging.getLogger("psycopg.pool").setLevel(logging.NOTSET)


def _render(logger: Any, method: str, event: structlog.typing.EventDict) -> bytes:
    """Add level and time, redact, encode. One step instead of a chain: there is a line for every request."""
    if event.get("exc_info"):
        event = structlog.processors.format_exc_info(logger, method, event)
    for name in REDACTED.intersection(event):
        event[name] = "[redacted]"
    return _encode({"at": datetime.now(UTC), "level": method, **event})


class _ToStructlog(logging.Handler):
    """Turns records of libraries into events, so that every line has one form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record under its logger's name."""
        exception = record.exc_info if record.exc_info and record.exc_info[0] else None
        logger = structlog.get_logger()
        logger.log(
            record.levelno, "library.message", library=record.name, message=record.getMessage(), exc_info=exception
        )
