"""Requests that begin something, such as a payment, and are answered when it is known."""

from django.db import migrations, models

from counterfoil.infrastructure.migration_operations import set_timeouts


class Migration(migrations.Migration):
    """Let a key remember what was begun with it."""

    dependencies = [("counterfoil", "0011_fulfilment")]

    operations = [
        set_timeouts(),
        migrations.AddField(
            model_name="idempotencykey",
            name="begun_id",
            field=models.BigIntegerField(null=True),
        ),
    ]
