"""Events on their way: what is not sent yet, what waits for a consumer, what a consumer has done."""

from pathlib import Path

import django.db.models.functions.datetime
from django.db import migrations, models

from counterfoil.infrastructure.migration_operations import run_sql_file, set_timeouts
from counterfoil.infrastructure.transaction_ids import TransactionIdField

_SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """New tables, and a trigger that fills the first. Events from before this migration are not sent to anybody."""

    dependencies = [
        ('counterfoil', '0013_gateway_reconciliation'),
    ]

    operations = [
        set_timeouts(),
        migrations.CreateModel(
            name='EventDelivery',
            fields=[
                ('pk', models.CompositePrimaryKey('consumer', 'event_id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('consumer', models.CharField(max_length=40)),
                ('event_id', models.UUIDField()),
                ('aggregate_id', models.BigIntegerField()),
                ('seq', models.IntegerField()),
                ('state', models.CharField(db_default='due', max_length=10)),
                ('tries', models.SmallIntegerField(db_default=0)),
                ('next_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('lease_until', models.DateTimeField(null=True)),
                ('last_error', models.CharField(db_default='', max_length=200)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'verbose_name_plural': 'event deliveries',
                'db_table': 'event_deliveries',
            },
        ),
        migrations.CreateModel(
            name='PendingEvent',
            fields=[
                ('event_id', models.UUIDField(primary_key=True, serialize=False)),
                ('shard', models.SmallIntegerField()),
                ('aggregate', models.CharField(max_length=20)),
                ('aggregate_id', models.BigIntegerField()),
                ('seq', models.IntegerField()),
                ('noted_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'db_table': 'outbox_pending',
            },
        ),
        migrations.CreateModel(
            name='ProcessedEvent',
            fields=[
                ('pk', models.CompositePrimaryKey('consumer', 'event_id', blank=True, editable=False, primary_key=True, serialize=False)),
                ('consumer', models.CharField(max_length=40)),
                ('event_id', models.UUIDField()),
                ('processed_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'db_table': 'processed_events',
            },
        ),
        migrations.RemoveField(
            model_name='outboxevent',
            name='published_at',
        ),
        migrations.AddField(
            model_name='outboxevent',
            name='schema_version',
            field=models.SmallIntegerField(db_default=1),
        ),
        # In two steps: what is there is older than any number, and the table is not written anew.
        migrations.SeparateDatabaseAndState(
            database_operations=[
                migrations.RunSQL(
                    [
                        "ALTER TABLE outbox_events ADD COLUMN xact xid8 NOT NULL DEFAULT '0'",
                        "ALTER TABLE outbox_events ALTER COLUMN xact SET DEFAULT pg_current_xact_id()",
                    ],
                    reverse_sql="ALTER TABLE outbox_events DROP COLUMN xact",
                ),
            ],
            state_operations=[
                migrations.AddField(
                    model_name='outboxevent',
                    name='xact',
                    field=TransactionIdField(db_default=models.Func(function='pg_current_xact_id', output_field=TransactionIdField()), editable=False),
                ),
            ],
        ),
        migrations.AddIndex(
            model_name='outboxevent',
            index=models.Index(fields=['xact', 'event_id'], name='idx_outbox_events_xact'),
        ),
        migrations.AddIndex(
            model_name='eventdelivery',
            index=models.Index(condition=models.Q(('state', 'due')), fields=['consumer', 'next_at', 'event_id'], name='idx_event_deliveries_due'),
        ),
        migrations.AddIndex(
            model_name='eventdelivery',
            index=models.Index(condition=models.Q(('state', 'dead')), fields=['event_id'], name='idx_event_deliveries_dead'),
        ),
        migrations.AddConstraint(
            model_name='eventdelivery',
            constraint=models.CheckConstraint(condition=models.Q(('state__in', ['due', 'dead'])), name='ck_event_deliveries_state'),
        ),
        migrations.AddIndex(
            model_name='processedevent',
            index=models.Index(fields=['processed_at'], name='idx_processed_events_at'),
        ),
        run_sql_file(
            _SQL / "outbox_v1.sql",
            reverse_sql="DROP TRIGGER note_events ON outbox_events; DROP FUNCTION note_events_v1",
        ),
    ]
