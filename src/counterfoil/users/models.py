"""People: accounts and their profiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Self

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.db import models
from django.db.models.functions import Now

from counterfoil.users.permissions import STAFF, Role

_ROLES = [role.value for role in Role]


class User(AbstractBaseUser):
    """An account: somebody who signs in or a program that does."""

    id = models.BigAutoField(primary_key=True)
    email = models.CharField(max_length=255, unique=True)
    name = models.CharField(max_length=255)
    role = models.CharField(max_length=20, choices=[(role, role) for role in _ROLES], db_default=Role.CUSTOMER)
    is_active = models.BooleanField(default=True, db_default=True)
    version = models.IntegerField(db_default=1)
    # Raised by a trigger with every change of password, role or activity: older access tokens end.
    token_epoch = models.IntegerField(db_default=0)
    email_confirmed_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = ["name"]
    objects: ClassVar[BaseUserManager[Self]] = BaseUserManager()

    class Meta:
        app_label = "counterfoil"
        db_table = "users"
        constraints = [
            models.CheckConstraint(condition=models.Q(role__in=_ROLES), name="ck_users_role"),
            models.CheckConstraint(
                condition=models.Q(email=models.functions.Lower("email")), name="ck_users_email_lower"
            ),
        ]

    @property
    def is_staff(self) -> bool:
        """Tell Django's console whether this account may sign in there."""
        return self.role in STAFF

    def get_session_auth_hash(self) -> str:
        """Tie a session of the console to the epoch too: whatever ends access tokens ends it."""
        return f"{super().get_session_auth_hash()}-{self.token_epoch}"

    def get_session_auth_fallback_hash(self) -> Iterator[str]:
        """Yield what a session signed with an older secret is tied to."""
        for known in super().get_session_auth_fallback_hash():
            yield f"{known}-{self.token_epoch}"

    def has_perm(self, perm: str, obj: Any = None) -> bool:  # noqa: ARG002 - Django's signature
        """Let staff view everything in the console and change nothing: changes go through the services."""
        return self.is_active and self.is_staff and ".view_" in perm

    def has_module_perms(self, app_label: str) -> bool:
        """Show only our own tables in the console."""
        return self.is_active and self.is_staff and app_label == "counterfoil"


class Profile(models.Model):
    """How to reach a person; apart from the account so that it can be erased on its own."""

    user = models.OneToOneField("counterfoil.User", on_delete=models.CASCADE, primary_key=True)
    phone = models.CharField(max_length=32, db_default="")
    address_line1 = models.CharField(max_length=255, db_default="")
    address_line2 = models.CharField(max_length=255, db_default="")
    postal_code = models.CharField(max_length=20, db_default="")
    city = models.CharField(max_length=120, db_default="")
    country_code = models.CharField(max_length=2, db_default="")
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "profiles"

    def __str__(self) -> str:
        return f"Profile of user {self.user_id}"
