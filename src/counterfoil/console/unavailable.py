"""What a page of the console answers while something that it needs is out of reach."""

from __future__ import annotations

import structlog
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.utils.deprecation import MiddlewareMixin

from counterfoil.infrastructure.database import translate_database_error
from counterfoil.kernel.errors import Unavailable

log = structlog.get_logger(__name__)

# Hashing is given up after a second, a lost connection is made anew in less.
_RETRY_AFTER_SECONDS = 2


class AnswerUnavailable(MiddlewareMixin):
    """Turns `Unavailable`, and the driver's errors that mean the same, into a page with 503 and Retry-After."""

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """Return the page, or None for any other error. The page needs neither database nor session."""
        error = exception if isinstance(exception, Unavailable) else translate_database_error(exception)
        if error is None:
            return None
        state = getattr(request, "scope", {}).get("state", {})
        log.warning("console.unavailable", code=error.code, request_id=state.get("request_id"))
        page = render_to_string("console/unavailable.html", {"message": error.message})
        return HttpResponse(page, status=503, headers={"Retry-After": str(_RETRY_AFTER_SECONDS)})
