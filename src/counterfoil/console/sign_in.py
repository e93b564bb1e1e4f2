"""Signing in to the console: Django's own form, our look-up of the account."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.contrib.auth.backends import BaseBackend
from django.http import HttpRequest

from counterfoil.users import sessions
from counterfoil.users.errors import LoginFailed


class AccountBackend(BaseBackend):
    """Finds accounts by the index of their address; permissions are those of the account itself."""

    def authenticate(
        self, request: HttpRequest | None, username: str | None = None, password: str | None = None, **_: Any
    ) -> Any:
        """Return the account of this address and password, or None."""
        if username is None or password is None:
            return None
        try:
            address = "" if request is None else request.META.get("REMOTE_ADDR", "")
            scope: Any = getattr(request, "scope", {})
            request_id = scope.get("state", {}).get("request_id", "console")
            user_id = sessions.sign_in_to_console(
                email=username, password=password, address=address, request_id=request_id
            )
        except LoginFailed:
            return None
        return self.get_user(user_id)

    def get_user(self, user_id: int) -> Any:
        """Return an active account by id, or None."""
        return apps.get_model("counterfoil", "User")._default_manager.filter(pk=user_id, is_active=True).first()  # noqa: SLF001 - Django's name for it
