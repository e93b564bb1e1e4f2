"""The tables of access and erasure join the audit trail."""

from __future__ import annotations

from django.db import migrations

from counterfoil.infrastructure.migration_operations import audited_table, set_timeouts


class Migration(migrations.Migration):
    """Only triggers are added: whatever writes to these tables leaves an entry from here on."""

    dependencies = [("counterfoil", "0006_rate_limits")]

    operations = [
        set_timeouts(),
        audited_table("sign_ins", "sign_in"),
        audited_table("refresh_tokens", "refresh_token", id_column="token_hash"),
        audited_table("one_time_tokens", "one_time_token"),
        audited_table("api_keys", "api_key"),
        audited_table("erasure_requests", "erasure_request", id_column="user_id"),
    ]
