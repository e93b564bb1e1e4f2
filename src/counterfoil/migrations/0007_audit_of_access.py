"""The tables of access and erasure join the audit trail, and what is known about a person is found in it."""

from __future__ import annotations

from django.contrib.postgres.indexes import GinIndex
from django.db import migrations, models
from django.db.models.fields.json import KeyTransform

from counterfoil.infrastructure.migration_operations import audited_table, set_timeouts

# What only migrations write. Default privileges have given it to the application.
READ_ONLY = """
DO $$
DECLARE
  v_table regclass;
BEGIN
  FOR v_table IN
    SELECT oid FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
      AND relname IN ('auth_permission', 'auth_group', 'auth_group_permissions')
      AND pg_has_role(relowner, 'USAGE')
  LOOP
    EXECUTE format('{change}', v_table);
  END LOOP;
END
$$
"""
FORBID = READ_ONLY.format(change="REVOKE INSERT, UPDATE, DELETE ON %s FROM counterfoil_app")
ALLOW = READ_ONLY.format(change="GRANT INSERT, UPDATE, DELETE ON %s TO counterfoil_app")


class Migration(migrations.Migration):
    """Only triggers and indexes are added: whatever writes to these tables leaves an entry from here on."""

    dependencies = [("counterfoil", "0006_rate_limits")]

    operations = [
        set_timeouts(),
        migrations.RunSQL(FORBID, ALLOW),
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
