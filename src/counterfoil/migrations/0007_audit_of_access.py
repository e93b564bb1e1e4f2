"""The tables of access and erasure join the audit trail, and what is known about a person is found in it."""

from __future__ import annotations

from django.contrib.postgres.indexes import GinIndex
from django.db import migrations, models
from django.db.models.fields.json import KeyTransform

from counterfoil.infrastructure.migration_operations import audited_table, set_timeouts


class Migration(migrations.Migration):
    """Only triggers and indexes are added: whatever writes to these tables leaves an entry from here on."""

    dependencies = [("counterfoil", "0006_rate_limits")]

    operations = [
        set_timeouts(),
        audited_table("sign_ins", "sign_in", secret_columns=("revoke_reason",)),
        audited_table("refresh_tokens", "refresh_token", id_column="token_hash"),
        audited_table("one_time_tokens", "one_time_token", secret_columns=("purpose",)),
        audited_table("api_keys", "api_key", secret_columns=("name",)),
        audited_table("erasure_requests", "erasure_request", id_column="user_id"),
        migrations.AddIndex(
            "auditentry",
            models.Index(
                fields=["target_id"],
                name="idx_audit_entries_person",
                condition=models.Q(target__in=["user", "profile"]),
            ),
        ),
        migrations.AddIndex(
            "auditentry",
            GinIndex(
                KeyTransform("users", "changes"),
                name="idx_audit_entries_read",
                condition=models.Q(action="user.read"),
            ),
        ),
    ]
