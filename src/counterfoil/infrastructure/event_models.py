"""Tables of events on their way: what is not sent yet, what waits for a consumer, what a consumer has done."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class PendingEvent(models.Model):
    """An event that no transport has confirmed yet. Written by a trigger with the event, deleted by the relay.

    An order's events are in the shard of its id, and leave it by `seq`.
    """

    event_id = models.UUIDField(primary_key=True)
    shard = models.SmallIntegerField()
    aggregate = models.CharField(max_length=20)
    aggregate_id = models.BigIntegerField()
    seq = models.IntegerField()
    noted_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "outbox_pending"

    def __str__(self) -> str:
        return f"Event {self.event_id}, not sent yet"


class EventDelivery(models.Model):
    """An event that a consumer has to handle (`due`) or has failed on for good (`dead`); done ones are deleted."""

    pk = models.CompositePrimaryKey("consumer", "event_id")
    consumer = models.CharField(max_length=40)
    event_id = models.UUIDField()
    aggregate_id = models.BigIntegerField()
    seq = models.IntegerField()
    state = models.CharField(max_length=10, db_default="due")
    tries = models.SmallIntegerField(db_default=0)
    next_at = models.DateTimeField(db_default=Now())
    lease_until = models.DateTimeField(null=True)
    last_error = models.CharField(max_length=200, db_default="")
    created_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "event_deliveries"
        verbose_name_plural = "event deliveries"
        constraints = [
            models.CheckConstraint(condition=models.Q(state__in=["due", "dead"]), name="ck_event_deliveries_state"),
        ]
        indexes = [
            models.Index(
                fields=["consumer", "next_at", "event_id"],
                condition=models.Q(state="due"),
                name="idx_event_deliveries_due",
            ),
            models.Index(fields=["event_id"], condition=models.Q(state="dead"), name="idx_event_deliveries_dead"),
        ]

    def __str__(self) -> str:
        return f"Event {self.event_id} for {self.consumer}"


class ProcessedEvent(models.Model):
    """A consumer's inbox: an event whose effect exists. Written in the transaction of the effect, kept for 30 days."""

    pk = models.CompositePrimaryKey("consumer", "event_id")
    consumer = models.CharField(max_length=40)
    event_id = models.UUIDField()
    processed_at = models.DateTimeField(db_default=Now())

    class Meta:
        app_label = "counterfoil"
        db_table = "processed_events"
        indexes = [models.Index(fields=["processed_at"], name="idx_processed_events_at")]

    def __str__(self) -> str:
        return f"Event {self.event_id}, done by {self.consumer}"
