"""People: accounts and their profiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

from django.contrib.auth.base_user import AbstractBaseUser, BaseUserManager
from django.contrib.postgres.functions import RandomUUID
from django.db import models
from django.db.models.functions import Now

from counterfoil.users.permissions import STAFF, Actor, Permission, Role, may

_ROLES = [role.value for role in Role]
# Table of the console → what the API asks for the same. None: the catalogue is public. Other tables: nobody.
_TO_VIEW: Mapping[str, Permission | None] = {
    "order": Permission.ORDERS_EVERYBODY,
    "orderitem": Permission.ORDERS_EVERYBODY,
    "fulfillment": Permission.ORDERS_EVERYBODY,
    "return": Permission.ORDERS_EVERYBODY,
    "hold": Permission.ORDERS_EVERYBODY,
    "payment": Permission.PAYMENTS_READ,
    "paymentattempt": Permission.PAYMENTS_READ,
    "gatewayfinding": Permission.PAYMENTS_READ,
    "gatewayreconciliation": Permission.PAYMENTS_READ,
    "refund": Permission.PAYMENTS_READ,
    "coupon": Permission.COUPONS_READ,
    "product": None,
    "stocklevel": Permission.INVENTORY_READ,
    "stockmovement": Permission.INVENTORY_READ,
    "user": Permission.USERS_READ,
    "auditentry": Permission.AUDIT_READ,
}


class User(AbstractBaseUser):
    """An account: somebody who signs in or a program that does.

    What tells who it is, is sealed with the key of `subject_id`; `email_index` finds and tells addresses apart.
    """

    id = models.BigAutoField(primary_key=True)
    subject_id = models.UUIDField(unique=True, db_default=RandomUUID())
    email = models.BinaryField(null=True)
    email_index = models.BinaryField(null=True, unique=True)
    name = models.BinaryField(null=True)
    role = models.CharField(max_length=20, choices=[(role, role) for role in _ROLES], db_default=Role.CUSTOMER)
    is_active = models.BooleanField(default=True, db_default=True)
    version = models.IntegerField(db_default=1)
    # Raised by a trigger with every change of password, role or activity: older access tokens end.
    token_epoch = models.IntegerField(db_default=0)
    email_confirmed_at = models.DateTimeField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    updated_at = models.DateTimeField(db_default=Now())
    # From here on the account is not changed any more, but to empty it.
    erasure_requested_at = models.DateTimeField(null=True)
    erased_at = models.DateTimeField(null=True)
    last_login = None  # signing in to the console is no change of the account

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = ["name"]
    objects: ClassVar[BaseUserManager[Self]] = BaseUserManager()

    class Meta:
        app_label = "counterfoil"
        db_table = "users"
        constraints = [
            models.CheckConstraint(condition=models.Q(role__in=_ROLES), name="ck_users_role"),
            models.CheckConstraint(
                condition=models.Q(email__isnull=True, email_index__isnull=True)
                | models.Q(email__isnull=False, email_index__isnull=False),
                name="ck_users_email_index",
            ),
            models.CheckConstraint(
                condition=models.Q(erased_at__isnull=True)
                | models.Q(email__isnull=True, name__isnull=True, is_active=False),
                name="ck_users_erased",
            ),
        ]

    def __str__(self) -> str:
        return f"user:{self.pk}"

    def get_username(self) -> str:
        """Return what Django calls this account by: its number, for the address is sealed."""
        return str(self)

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
        """Let staff view in the console what they may read through the API; changes go through the services."""
        verb, _, table = perm.rpartition(".")[2].partition("_")
        if not (self.is_active and self.is_staff and verb == "view" and table in _TO_VIEW):
            return False
        needed = _TO_VIEW[table]
        return needed is None or may(Actor(self.pk, Role(self.role)), needed)

    def has_module_perms(self, app_label: str) -> bool:
        """Show only our own tables in the console."""
        return self.is_active and self.is_staff and app_label == "counterfoil"


class Profile(models.Model):
    """How to reach a person, sealed as the account's own fields are; empty where unknown."""

    user = models.OneToOneField("counterfoil.User", on_delete=models.CASCADE, primary_key=True)
    phone = models.BinaryField(null=True)
    address_line1 = models.BinaryField(null=True)
    address_line2 = models.BinaryField(null=True)
    postal_code = models.BinaryField(null=True)
    city = models.BinaryField(null=True)
    country_code = models.BinaryField(null=True)
    updated_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "profiles"

    def __str__(self) -> str:
        return f"Profile of user {self.user_id}"
