"""People in the console: found by the index of their address, shown through the service that records who reads."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from counterfoil.infrastructure.database import transaction
from counterfoil.kernel.errors import Unavailable
from counterfoil.users import services as users
from counterfoil.users.services import UserRecord

if TYPE_CHECKING:
    _ModelAdmin = admin.ModelAdmin[Model]
else:  # generic for the type checker only
    _ModelAdmin = admin.ModelAdmin

_UNREADABLE = "(cannot be read right now)"
_ERASED = "erased"


class FindsPeople(_ModelAdmin):
    """A page whose search takes an e-mail address: exactly, for only its index is stored."""

    person_field: ClassVar[str] = "pk"

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Model], search_term: str
    ) -> tuple[QuerySet[Model], bool]:
        """Take what looks like an address for one."""
        if "@" not in search_term:
            return super().get_search_results(request, queryset, search_term)
        try:
            found = users.find_user_ids([users.normalise_email(search_term)])
        except ValueError:
            return queryset.none(), False
        return queryset.filter(**{f"{self.person_field}__in": list(found.values())}), False


class ShowsPeople(FindsPeople):
    """A page that shows somebody's data to who may read accounts, when it is looked at and not when it is posted to."""

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """Open what the object's page shows of its person."""
        found = super().get_object(request, object_id, from_field)
        if found is not None and request.method == "GET" and may_read_people(request):
            reveal(request, [found], self.person_field)
        return found


def may_read_people(request: HttpRequest) -> bool:
    """Tell whether the one who looks may read accounts."""
    user: Any = request.user
    return bool(user.has_perm("counterfoil.view_user"))


def reveal(request: HttpRequest, objects: Iterable[Any], person_field: str) -> None:
    """Read the people of these objects in one go, leaving one audit entry, and put each at its object as `person`."""
    shown = list(objects)
    ids = sorted({getattr(each, person_field) for each in shown})
    scope: Any = getattr(request, "scope", {})
    try:
        with transaction():
            found = users.inspect_users(
                ids, actor=str(request.user), request_id=scope.get("state", {}).get("request_id", "console")
            )
    except Unavailable:
        found = []
    people = {person.id: person for person in found}
    for each in shown:
        each.person = people.get(getattr(each, person_field))


def render_person(person: UserRecord | None, field: str) -> str | None:
    """Show one field of an account or its profile; nothing for an empty one, `erased` for somebody who is."""
    if person is None:
        return _UNREADABLE
    if person.erased_at is not None:
        return _ERASED
    return str(getattr(person, field, "") or getattr(person.profile, field, "")) or None
