"""Comparisons with gateways, and what they found."""

from __future__ import annotations

from django.db import models
from django.db.models import Q
from django.db.models.functions import Now


class GatewayReconciliation(models.Model):
    """One comparison with a gateway's list; a log."""

    id = models.BigAutoField(primary_key=True)
    gateway = models.CharField(max_length=20)
    # Made by the worker, once a day, as opposed to somebody at a terminal.
    is_daily = models.BooleanField()
    outcome = models.CharField(max_length=20, db_default="running")
    span_start = models.DateTimeField()
    span_end = models.DateTimeField()
    payments = models.IntegerField(db_default=0)
    refunds = models.IntegerField(db_default=0)
    findings = models.IntegerField(db_default=0)
    started_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "counterfoil"
        db_table = "gateway_reconciliations"
        indexes = [models.Index(fields=["gateway", "-started_at"], name="idx_gateway_recon_started")]
        constraints = [
            models.CheckConstraint(
                condition=Q(outcome__in=["running", "done", "failed"]), name="ck_gateway_recon_outcome"
            ),
            # Many workers, one daily comparison.
            models.UniqueConstraint(
                fields=["gateway"], condition=Q(outcome="running", is_daily=True), name="uq_gateway_recon_running"
            ),
        ]

    def __str__(self) -> str:
        return f"Comparison {self.pk} with {self.gateway}"


class GatewayFinding(models.Model):
    """Something on which we and a gateway disagree, from when it was first seen until it was no longer."""

    id = models.BigAutoField(primary_key=True)
    gateway = models.CharField(max_length=20)
    code = models.CharField(max_length=40)
    subject = models.CharField(max_length=220)
    sentence = models.TextField()
    order_id = models.BigIntegerField(null=True)
    payment_id = models.BigIntegerField(null=True)
    refund_id = models.BigIntegerField(null=True)
    subject_at = models.DateTimeField()
    first_seen_at = models.DateTimeField(db_default=Now())
    last_seen_at = models.DateTimeField(db_default=Now())
    resolved_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "counterfoil"
        db_table = "gateway_findings"
        indexes = [
            models.Index(
                fields=["gateway", "subject_at"], name="idx_gateway_findings_open", condition=Q(resolved_at=None)
            )
        ]
        constraints = [
            models.UniqueConstraint(
                fields=["gateway", "code", "subject"], condition=Q(resolved_at=None), name="uq_gateway_findings_open"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.code}: {self.subject}"
