"""The audit trail: triggers on every table, a role that cannot change it, seals, and the function that places orders."""

from pathlib import Path

import django.contrib.postgres.fields
import django.db.models.functions.datetime
from django.db import migrations, models

import counterfoil.infrastructure.transaction_ids
from counterfoil.infrastructure.migration_operations import audited_table, run_sql_file, set_timeouts

SQL = Path(__file__).parent / "sql"
XACT = counterfoil.infrastructure.transaction_ids.TransactionIdField
# Until they are ciphertext these are somebody's; afterwards they are `bytea`, and hidden for that.
PERSONAL = ("phone", "address_line1", "address_line2", "postal_code", "city", "country_code")

DROP_AUDIT = """
DROP FUNCTION seal_audit_entries_v1;
DROP TABLE audit_seals;
DROP TRIGGER audit_written_once ON audit_entries;
DROP FUNCTION audit_refuse_change_v1;
DROP FUNCTION audit_changes_v1;
DROP FUNCTION audit_hide_v1;
ALTER TABLE audit_entries DROP COLUMN xact;
"""


class Migration(migrations.Migration):
    """Nothing that the release before needs is taken away: it goes on with place_orders_v1()."""

    dependencies = [("counterfoil", "0002_place_orders")]

    operations = [
        set_timeouts(),
        migrations.AddField("auditentry", "after_hash", models.BinaryField(null=True)),
        migrations.AddField("auditentry", "before_hash", models.BinaryField(null=True)),
        migrations.AddField("auditentry", "target_key", models.CharField(max_length=80, null=True)),
        migrations.SeparateDatabaseAndState(
            database_operations=[run_sql_file(SQL / "audit_v1.sql", reverse_sql=DROP_AUDIT)],
            state_operations=[
                migrations.CreateModel(
                    name="AuditSeal",
                    fields=[
                        ("number", models.BigIntegerField(primary_key=True, serialize=False)),
                        ("position", models.BigIntegerField()),
                        (
                            "entry_ids",
                            django.contrib.postgres.fields.ArrayField(base_field=models.BigIntegerField(), size=None),
                        ),
                        ("hashes", models.BinaryField()),
                        ("last_xact", XACT()),
                        ("last_id", models.BigIntegerField()),
                        ("first_id", models.BigIntegerField()),
                        ("cluster", models.BigIntegerField()),
                        ("sealed_at", models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                    ],
                    options={"db_table": "audit_seals"},
                ),
                migrations.AddField(
                    "auditentry",
                    "xact",
                    XACT(
                        db_default=models.Func(function="pg_current_xact_id", output_field=XACT()), editable=False
                    ),
                ),
                migrations.AddIndex(
                    "auditentry", models.Index(fields=["xact", "id"], name="idx_audit_entries_xact")
                ),
            ],
        ),
        audited_table("users", "user", secret_columns=("password", "email", "name")),
        audited_table("profiles", "profile", id_column="user_id", secret_columns=PERSONAL),
        audited_table("products", "product"),
        audited_table("orders", "order"),
        audited_table("order_items", "order_item"),
        audited_table("adjustments", "adjustment"),
        audited_table("stock_levels", "stock_level", id_column="product_id"),
        audited_table("stock_movements", "stock_movement"),
        # place_orders_v2() counts by it what a customer holds without having paid.
        migrations.AddIndex(
            "order",
            models.Index(
                fields=["user", "reserved_until"],
                name="idx_orders_open_holds",
                condition=models.Q(status="created"),
            ),
        ),
        run_sql_file(SQL / "place_orders_v2.sql", reverse_sql="DROP FUNCTION place_orders_v2"),
        run_sql_file(
            SQL / "audit_roles_v1.sql", reverse_sql=(SQL / "audit_roles_v1_reverse.sql").read_text(encoding="utf-8")
        ),
    ]
