"""Signing in to the console: Django's own page, with the same slow-down as the API's sign-in."""

from __future__ import annotations

from http import HTTPStatus

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse

from counterfoil.users.attempts import attempt_succeeded, begin_attempt
from counterfoil.users.errors import TooManyAttempts


def sign_in(request: HttpRequest) -> HttpResponse:
    """Show or take the form; 429 when this account or this address has been tried too often."""
    if request.method != "POST":
        return admin.site.login(request)
    account, address = request.POST.get("username", ""), request.META.get("REMOTE_ADDR", "")
    try:
        begin_attempt(account=account, address=address)
    except TooManyAttempts as error:
        context = {**admin.site.each_context(request), "title": "Too many attempts", "message": error.message}
        refusal = TemplateResponse(request, "console/refused.html", context, status=HTTPStatus.TOO_MANY_REQUESTS)
        refusal["Retry-After"] = str(error.details["retry_after_seconds"])
        return refusal
    signed_in_before = request.user.is_authenticated
    answer = admin.site.login(request)
    if answer.status_code == HTTPStatus.FOUND:
        if signed_in_before:  # Django gives a new session to those only who had none of their own
            request.session.cycle_key()
        attempt_succeeded(account=account, address=address)
    return answer
