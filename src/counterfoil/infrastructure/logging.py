"""Logs: one JSON object a line, events with fields, nothing personal."""

from __future__ import annotations

import logging
import sys
from typing import Any, Final

import msgspec
import structlog

# Names of fields whose values never reach a log, wherever they come from.
REDACTED: Final = frozenset({"password", "token", "authorization", "email", "name", "phone", "address", "secret"})


def configure_logging(level: str) -> None:
    """Send structlog's events to standard error as JSON lines, and the standard library's warnings through it."""
    threshold = logging.getLevelNamesMapping()[level]
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
            structlog.processors.format_exc_info,
            _redact,
            _to_json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, handlers=[_ToStructlog()], force=True)


def _redact(_logger: Any, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    for name in REDACTED.intersection(event):
        event[name] = "[redacted]"
    return event


def _to_json(_logger: Any, _method: str, event: structlog.typing.EventDict) -> bytes:
    return msgspec.json.encode(event, enc_hook=str)


class _ToStructlog(logging.Handler):
    """Turns records of libraries into events, so that every line has one form."""

    def emit(self, record: logging.LogRecord) -> None:
        """Log one record under its logger's name."""
        exception = record.exc_info if record.exc_info and record.exc_info[0] else None
        logger = structlog.get_logger()
        logger.log(
            record.levelno, "library.message", library=record.name, message=record.getMessage(), exc_info=exception
        )
