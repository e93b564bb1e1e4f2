"""Requests to be forgotten, and how far each has come."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class ErasureRequest(models.Model):
    """One person's wish to be forgotten; `step` is the last one that was done, empty before the first."""

    user = models.OneToOneField("counterfoil.User", on_delete=models.PROTECT, primary_key=True)
    requested_at = models.DateTimeField(db_default=Now())
    requested_by = models.CharField(max_length=64)
    step = models.CharField(max_length=40, db_default="")
    deferred_reason = models.CharField(max_length=255, db_default="")
    completed_at = models.DateTimeField(null=True)

    class Meta:
        app_label = "counterfoil"
        db_table = "erasure_requests"
        indexes = [
            models.Index(
                fields=["requested_at"],
                name="idx_erasure_requests_open",
                condition=models.Q(completed_at__isnull=True),
            )
        ]

    def __str__(self) -> str:
        return f"Erasure of user {self.user_id}"
