"""The console's sign-in page: Django's own, with an answer for whoever tries too often."""

from __future__ import annotations

from http import HTTPStatus

import structlog
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from counterfoil.users.errors import TooManyAttempts

log = structlog.get_logger(__name__)


def show_login_page(request: HttpRequest) -> HttpResponse:
    """Show or take the form; 429 when this account or this address has been tried too often (console/sign_in.py)."""
    signed_in_before = request.user.is_authenticated
    try:
        answer = admin.site.login(request)
    except TooManyAttempts as error:
        context = {**admin.site.each_context(request), "title": "Too many attempts", "message": error.message}
        refusal = TemplateResponse(request, "console/refused.html", context, status=HTTPStatus.TOO_MANY_REQUESTS)
        refusal["Retry-After"] = str(error.details["retry_after_seconds"])
        return refusal
    if request.method == "POST" and answer.status_code == HTTPStatus.FOUND:
        if signed_in_before:
            request.session.cycle_key()  # Django gives a new session to those only who had none of their own
        state = getattr(request, "scope", {}).get("state", {})
        log.info("security.console_signed_in", user_id=request.user.pk, request_id=state.get("request_id"))
    return answer
