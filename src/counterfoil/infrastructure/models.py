"""Tables of the mechanisms: events to send, keys already used, traces of every change."""

from __future__ import annotations

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models.fields.json import KeyTransform
from django.db.models.functions import Now

from counterfoil.infrastructure.transaction_ids import TransactionIdField


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
    # Of the shape of `payload`; raised when a reader of the older shape would misunderstand the newer.
    schema_version = models.SmallIntegerField(db_default=1)
    # Rows below pg_snapshot_xmin(pg_current_snapshot()) are all there are: a cursor on it misses nothing.
    xact = TransactionIdField(
        db_default=models.Func(function="pg_current_xact_id", output_field=TransactionIdField()), editable=False
    )

    class Meta:
        app_label = "counterfoil"
        db_table = "outbox_events"
        indexes = [models.Index(fields=["xact", "event_id"], name="idx_outbox_events_xact")]
        constraints = [
            models.UniqueConstraint(fields=["aggregate", "aggregate_id", "seq"], name="uq_outbox_events_seq"),
            # What happens once in a life cannot be written twice, whatever the code believes. Most lives begin with
            # order.created as number 1, which the constraint above makes single at no cost to the hot path.
            models.UniqueConstraint(
                fields=["aggregate_id", "type"],
                condition=models.Q(
                    aggregate="order",
                    type__in=["order.confirmed", "order.cancelled", "order.discarded", "order.completed"],
                ),
                name="uq_outbox_events_once",
            ),
            models.CheckConstraint(condition=models.Q(seq__gte=1), name="ck_outbox_events_seq"),
        ]

    def __str__(self) -> str:
        return f"{self.type} of {self.aggregate} {self.aggregate_id}"


class IdempotencyKey(models.Model):
    """A request key that was used, with what the request asked and what it was answered.

    The answer is either `resource_id` (the order; its body is rebuilt from the event that created it) or
    `response_body`, byte for byte. An answer about a person is sealed with the key of `subject_id`. Until there is an
    answer, `begun_id` is what the request has begun, such as a payment.
    """

    pk = models.CompositePrimaryKey("principal", "key")
    principal = models.CharField(max_length=64)
    key = models.CharField(max_length=255)
    fingerprint = models.BinaryField()
    response_status = models.SmallIntegerField(null=True)
    response_body = models.BinaryField(null=True)
    resource_id = models.BigIntegerField(null=True)
    begun_id = models.BigIntegerField(null=True)
    subject_id = models.UUIDField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()

    class Meta:
        app_label = "counterfoil"
        db_table = "idempotency_keys"
        indexes = [
            models.Index(fields=["expires_at"], name="idx_idempotency_keys_expires"),
            models.Index(
                fields=["subject_id"],
                name="idx_idempotency_keys_subject",
                condition=models.Q(subject_id__isnull=False),
            ),
        ]

    def __str__(self) -> str:
        return f"Key {self.key} of {self.principal}"


class AuditEntry(models.Model):
    """Who changed what, when and why. Written in the transaction of the change; never updated.

    `target_id` is 0 where a whole table is meant, or where `target_key` names the row. `changes` holds the value before
    and after of every column that changed; the two hashes are of the whole row. Written by triggers, place_orders_v3()
    and `append_entry`, never through this model.
    """

    id = models.BigAutoField(primary_key=True)
    occurred_at = models.DateTimeField(db_default=Now())
    actor = models.CharField(max_length=64)
    action = models.CharField(max_length=60)
    target = models.CharField(max_length=20)
    target_id = models.BigIntegerField()
    target_key = models.CharField(max_length=80, null=True)  # noqa: DJ001 - no row has an empty key
    request_id = models.CharField(max_length=64)
    reason = models.CharField(max_length=255, db_default="")
    changes = models.JSONField(null=True)
    before_hash = models.BinaryField(null=True)
    after_hash = models.BinaryField(null=True)
    xact = TransactionIdField(
        db_default=models.Func(function="pg_current_xact_id", output_field=TransactionIdField()), editable=False
    )

    class Meta:
        app_label = "counterfoil"
        db_table = "audit_entries"
        verbose_name_plural = "audit entries"
        indexes = [
            models.Index(fields=["xact", "id"], name="idx_audit_entries_xact"),
            # What is known about a person, for their export: few of the entries, so that placing an order pays nothing.
            models.Index(
                fields=["target_id"],
                name="idx_audit_entries_person",
                condition=models.Q(target__in=["user", "profile"]),
            ),
            GinIndex(
                KeyTransform("users", "changes"),
                name="idx_audit_entries_read",
                condition=models.Q(action="user.read"),
            ),
        ]

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


class AuditSeal(models.Model):
    """Up to 1,000 entries in the order of the chain, each with its hash; made by seal_audit_entries_v1() alone.

    The columns are explained in migrations/sql/audit_v1.sql.
    """

    number = models.BigIntegerField(primary_key=True)
    position = models.BigIntegerField()
    entry_ids = ArrayField(models.BigIntegerField())
    hashes = models.BinaryField()
    last_xact = TransactionIdField()
    last_id = models.BigIntegerField()
    first_id = models.BigIntegerField()
    cluster = models.BigIntegerField()
    sealed_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "audit_seals"

    def __str__(self) -> str:
        return f"Seal {self.pk}"
