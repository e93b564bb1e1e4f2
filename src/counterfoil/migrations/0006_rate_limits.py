"""The table that the rate limiter counts in."""

from django.db import migrations, models

from counterfoil.infrastructure.migration_operations import set_timeouts


class Migration(migrations.Migration):
    """Create rate_limits, unlogged."""

    dependencies = [("counterfoil", "0005_access")]

    operations = [
        set_timeouts(),
        migrations.CreateModel(
            name="RateLimit",
            fields=[
                ("key", models.BinaryField(primary_key=True, serialize=False)),
                ("used", models.IntegerField()),
                ("expires_at", models.DateTimeField()),
            ],
            options={
                "db_table": "rate_limits",
                "indexes": [models.Index(fields=["expires_at"], name="idx_rate_limits_expires")],
            },
        ),
        # Half a page stays free, so that counting up rewrites the row in its page and touches no index.
        migrations.RunSQL(
            "ALTER TABLE rate_limits SET UNLOGGED; ALTER TABLE rate_limits SET (fillfactor = 50)",
            reverse_sql="ALTER TABLE rate_limits RESET (fillfactor); ALTER TABLE rate_limits SET LOGGED",
        ),
    ]
