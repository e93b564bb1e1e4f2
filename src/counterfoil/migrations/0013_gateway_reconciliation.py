"""Comparisons with gateways, and what they found."""

import django.db.models.functions.datetime
from django.db import migrations, models

from counterfoil.infrastructure.migration_operations import audited_table, set_timeouts


class Migration(migrations.Migration):
    """Two new tables; nothing that the release before this one knows is changed."""

    dependencies = [
        ('counterfoil', '0012_begun_requests'),
    ]

    operations = [
        set_timeouts(),
        migrations.CreateModel(
            name='GatewayFinding',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('gateway', models.CharField(max_length=20)),
                ('code', models.CharField(max_length=40)),
                ('subject', models.CharField(max_length=220)),
                ('sentence', models.TextField()),
                ('order_id', models.BigIntegerField(null=True)),
                ('payment_id', models.BigIntegerField(null=True)),
                ('refund_id', models.BigIntegerField(null=True)),
                ('subject_at', models.DateTimeField()),
                ('first_seen_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('last_seen_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('resolved_at', models.DateTimeField(null=True)),
            ],
            options={
                'db_table': 'gateway_findings',
                'indexes': [models.Index(condition=models.Q(('resolved_at', None)), fields=['gateway', 'subject_at'], name='idx_gateway_findings_open')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('resolved_at', None)), fields=('gateway', 'code', 'subject'), name='uq_gateway_findings_open')],
            },
        ),
        migrations.CreateModel(
            name='GatewayReconciliation',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('gateway', models.CharField(max_length=20)),
                ('is_daily', models.BooleanField()),
                ('outcome', models.CharField(db_default='running', max_length=20)),
                ('span_start', models.DateTimeField()),
                ('span_end', models.DateTimeField()),
                ('payments', models.IntegerField(db_default=0)),
                ('refunds', models.IntegerField(db_default=0)),
                ('findings', models.IntegerField(db_default=0)),
                ('started_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('finished_at', models.DateTimeField(null=True)),
            ],
            options={
                'db_table': 'gateway_reconciliations',
                'indexes': [models.Index(fields=['gateway', '-started_at'], name='idx_gateway_recon_started')],
                'constraints': [models.CheckConstraint(condition=models.Q(('outcome__in', ['running', 'done', 'failed'])), name='ck_gateway_recon_outcome'), models.UniqueConstraint(condition=models.Q(('is_daily', True), ('outcome', 'running')), fields=('gateway',), name='uq_gateway_recon_running')],
            },
        ),
        audited_table("gateway_findings", "gateway_finding"),
    ]
