"""What gives access and what takes it away: sign-ins, refresh tokens, API keys, one-time tokens, revocations."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.db import models
from django.db.models import Func
from django.db.models.functions import Now

from counterfoil.infrastructure.transaction_ids import TransactionIdField

PURPOSES = ("confirm_email", "reset_password")


class SignIn(models.Model):
    """A family of refresh tokens: one sign-in on one device, until it is logged out.

    A sign-in to the console, and a password set with a link, are rows without tokens that have ended already: they tell
    which addresses an account has come from. `address_hash` is keyed; the address cannot be read back.
    """

    id = models.UUIDField(primary_key=True)
    user = models.ForeignKey("counterfoil.User", on_delete=models.CASCADE, related_name="+")
    created_at = models.DateTimeField(db_default=Now())
    last_used_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True)
    revoke_reason = models.CharField(max_length=40, db_default="")
    address_hash = models.BinaryField(null=True)

    class Meta:
        app_label = "counterfoil"
        db_table = "sign_ins"
        indexes = [models.Index(fields=["expires_at"], name="idx_sign_ins_expires")]

    def __str__(self) -> str:
        return f"Sign-in {self.pk}"


class RefreshToken(models.Model):
    """One token of a family, by its SHA-256; kept after its use so that a second use is noticed."""

    token_hash = models.BinaryField(primary_key=True)
    sign_in = models.ForeignKey("counterfoil.SignIn", on_delete=models.CASCADE, related_name="+")
    issued_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    used_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "counterfoil"
        db_table = "refresh_tokens"

    def __str__(self) -> str:
        return f"Refresh token of sign-in {self.sign_in_id}"


class ApiKey(models.Model):
    """A program's way in: acts as an account, within its scopes; stored as SHA-256 of 256 random bits."""

    id = models.BigAutoField(primary_key=True)
    user = models.ForeignKey("counterfoil.User", on_delete=models.CASCADE, related_name="+")
    name = models.CharField(max_length=120)
    prefix = models.CharField(max_length=16)
    secret_hash = models.BinaryField(unique=True)
    scopes = ArrayField(models.CharField(max_length=40))
    created_by = models.CharField(max_length=64)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()
    last_used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "counterfoil"
        db_table = "api_keys"
        verbose_name = "API key"

    def __str__(self) -> str:
        return f"API key {self.pk}"


class OneTimeToken(models.Model):
    """A wish for a mail with a link that works once; without an account it is there to take as long as with one.

    The worker makes the token: its hash is unknown until the mail is on its way.
    """

    id = models.UUIDField(primary_key=True)
    purpose = models.CharField(max_length=20, choices=[(purpose, purpose) for purpose in PURPOSES])
    user = models.ForeignKey("counterfoil.User", on_delete=models.CASCADE, related_name="+", null=True)
    token_hash = models.BinaryField(null=True, unique=True)
    requested_at = models.DateTimeField(db_default=Now())
    attempts = models.SmallIntegerField(db_default=0)
    next_attempt_at = models.DateTimeField(db_default=Now(), null=True)
    sent_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    used_at = models.DateTimeField(null=True)
    cancelled_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "counterfoil"
        db_table = "one_time_tokens"
        constraints = [
            models.CheckConstraint(condition=models.Q(purpose__in=PURPOSES), name="ck_one_time_tokens_purpose")
        ]
        indexes = [
            models.Index(
                fields=["next_attempt_at"],
                name="idx_one_time_tokens_due",
                condition=models.Q(next_attempt_at__isnull=False),
            )
        ]

    def __str__(self) -> str:
        return f"{self.purpose} of {self.requested_at}"


class AccessRevocation(models.Model):
    """Rights that were taken away less than two hours ago, for processes that hold them in memory; append-only."""

    id = models.BigAutoField(primary_key=True)
    user_id = models.BigIntegerField()
    epoch = models.IntegerField(null=True)
    sign_in_id = models.UUIDField(null=True)
    api_key_id = models.BigIntegerField(null=True)
    revoked_at = models.DateTimeField(db_default=Now())
    written_by = TransactionIdField(db_default=Func(function="pg_current_xact_id", output_field=TransactionIdField()))

    class Meta:
        app_label = "counterfoil"
        db_table = "access_revocations"
        constraints = [
            models.CheckConstraint(
                condition=models.Q(epoch__isnull=False)
                | models.Q(sign_in_id__isnull=False)
                | models.Q(api_key_id__isnull=False),
                name="ck_access_revocations_something",
            )
        ]
        indexes = [
            models.Index(fields=["written_by"], name="idx_access_revocations_xid"),
            models.Index(fields=["revoked_at"], name="idx_access_revocations_at"),
        ]

    def __str__(self) -> str:
        return f"Revocation {self.pk}"
