"""Tables of the mechanisms: events to send, keys already used, traces of every change."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class OutboxEvent(models.Model):
    """A fact that happened, written with it; the timeline of an aggregate and the queue of what must be sent.

    `seq` counts 1..n per aggregate without a gap: it is assigned under the aggregate's row lock.
    """

    event_id = models.UUIDField(primary_key=True)
    aggregate = models.CharField(max_length=20)
    aggregate_id = models.BigIntegerField()
    seq = models.IntegerField()
    type = models.CharField(max_length=60)
    payload = models.JSONField()
    actor = models.CharField(max_length=64)
    cause = models.CharField(max_length=64)
    occurred_at = models.DateTimeField(db_default=Now())
    published_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "counterfoil"
        db_table = "outbox_events"
        constraints = [
            models.UniqueConstraint(fields=["aggregate", "aggregate_id", "seq"], name="uq_outbox_events_seq"),
            models.CheckConstraint(condition=models.Q(seq__gte=1), name="ck_outbox_events_seq"),
        ]

    def __str__(self) -> str:
        return f"{self.type} of {self.aggregate} {self.aggregate_id}"


class IdempotencyKey(models.Model):
    """A request key that was used, with what the request asked and what it was answered.

    The answer is either `resource_id` (the order; its body is rebuilt from the event that created it) or
    `response_body`, byte for byte.
    """

    pk = models.CompositePrimaryKey("principal", "key")
    principal = models.CharField(max_length=64)
    key = models.CharField(max_length=255)
    fingerprint = models.BinaryField()
    response_status = models.SmallIntegerField(null=True)
    response_body = models.BinaryField(null=True)
    resource_id = models.BigIntegerField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()

    class Meta:
        app_label = "counterfoil"
        db_table = "idempotency_keys"
        indexes = [models.Index(fields=["expires_at"], name="idx_idempotency_keys_expires")]

    def __str__(self) -> str:
        return f"Key {self.key} of {self.principal}"


class AuditEntry(models.Model):
    """Who changed what, when and why. Written in the transaction of the change; never updated."""

    id = models.BigAutoField(primary_key=True)
    occurred_at = models.DateTimeField(db_default=Now())
    actor = models.CharField(max_length=64)
    action = models.CharField(max_length=60)
    target = models.CharField(max_length=20)
    target_id = models.BigIntegerField()
    request_id = models.CharField(max_length=64)
    reason = models.CharField(max_length=255, db_default="")
    changes = models.JSONField(null=True)

    class Meta:
        app_label = "counterfoil"
        db_table = "audit_entries"
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"Audit entry {self.pk}"


class RateLimit(models.Model):
    """How often a key was used in its window, which began with the first use.

    The table is unlogged (migration 0006): fast, and empty after a crash of the server. A key holds no address and no
    e-mail address, only their keyed hashes.
    """

    # Bytes, because Django gives a text a second index for LIKE, which nobody asks here.
    key = models.BinaryField(primary_key=True)
    used = models.IntegerField()
    expires_at = models.DateTimeField()

    class Meta:
        app_label = "counterfoil"
        db_table = "rate_limits"
        indexes = [models.Index(fields=["expires_at"], name="idx_rate_limits_expires")]

    def __str__(self) -> str:
        return bytes(self.key).decode()
