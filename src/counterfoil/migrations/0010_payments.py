"""Payments, the calls made for them, refunds, the ledger, and the notices of gateways."""

from pathlib import Path

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models

from counterfoil.infrastructure.migration_operations import audited_table, run_sql_file, set_timeouts


SQL = Path(__file__).parent / "sql"
REVERSE = """
DROP TRIGGER ledger_is_balanced ON ledger_entries;
DROP TRIGGER ledger_written_once ON ledger_entries;
DROP FUNCTION ledger_is_balanced_v1;
"""


class Migration(migrations.Migration):
    """Five new tables; nothing that the release before this one knows is changed."""

    dependencies = [
        ('counterfoil', '0009_prices'),
    ]

    operations = [
        set_timeouts(),
        migrations.CreateModel(
            name='Payment',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('gateway', models.CharField(max_length=20)),
                ('gateway_payment_id', models.CharField(db_default='', max_length=200)),
                ('reference', models.CharField(max_length=64)),
                ('amount', models.DecimalField(decimal_places=4, max_digits=19)),
                ('currency', models.CharField(max_length=3)),
                ('capture_now', models.BooleanField()),
                ('status', models.CharField(db_default='processing', max_length=20)),
                ('captured_amount', models.DecimalField(db_default=0, decimal_places=4, max_digits=19)),
                ('refunded_amount', models.DecimalField(db_default=0, decimal_places=4, max_digits=19)),
                ('decline_code', models.CharField(db_default='', max_length=100)),
                ('action_url', models.CharField(db_default='', max_length=2048)),
                ('principal', models.CharField(max_length=64)),
                ('client_key', models.CharField(max_length=64)),
                ('generation', models.IntegerField(db_default=1)),
                ('review_reason', models.CharField(db_default='', max_length=120)),
                ('version', models.IntegerField(db_default=1)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('order', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.order')),
            ],
            options={
                'db_table': 'payments',
            },
        ),
        migrations.CreateModel(
            name='GatewayNotice',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('gateway', models.CharField(max_length=20)),
                ('event_id', models.CharField(db_default='', max_length=200)),
                ('type', models.CharField(db_default='', max_length=100)),
                ('verdict', models.CharField(max_length=20)),
                ('detail', models.CharField(db_default='', max_length=200)),
                ('body_hash', models.BinaryField()),
                ('received_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('payment', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.payment')),
            ],
            options={
                'db_table': 'gateway_notices',
            },
        ),
        migrations.CreateModel(
            name='Refund',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('reference', models.CharField(max_length=64)),
                ('gateway_refund_id', models.CharField(db_default='', max_length=200)),
                ('amount', models.DecimalField(decimal_places=4, max_digits=19)),
                ('currency', models.CharField(max_length=3)),
                ('reason', models.CharField(db_default='', max_length=500)),
                ('automatic', models.BooleanField(db_default=False)),
                ('status', models.CharField(db_default='requested', max_length=20)),
                ('failure_code', models.CharField(db_default='', max_length=100)),
                ('principal', models.CharField(max_length=64)),
                ('client_key', models.CharField(max_length=64)),
                ('version', models.IntegerField(db_default=1)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('order', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.order')),
                ('payment', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.payment')),
            ],
            options={
                'db_table': 'refunds',
            },
        ),
        migrations.CreateModel(
            name='PaymentAttempt',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('operation', models.CharField(max_length=20)),
                ('gateway', models.CharField(max_length=20)),
                ('gateway_key', models.CharField(max_length=64)),
                ('amount', models.DecimalField(decimal_places=4, max_digits=19)),
                ('method', models.CharField(db_default='', max_length=200)),
                ('return_url', models.CharField(db_default='', max_length=2048)),
                ('state', models.CharField(db_default='due', max_length=20)),
                ('tries', models.IntegerField(db_default=0)),
                ('fence', models.BigIntegerField(db_default=0)),
                ('lease_until', models.DateTimeField(null=True)),
                ('next_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now(), null=True)),
                ('first_sent_at', models.DateTimeField(null=True)),
                ('is_unknown', models.BooleanField(db_default=False)),
                ('noticed_at', models.DateTimeField(null=True)),
                ('last_error', models.CharField(db_default='', max_length=200)),
                ('created_by', models.CharField(max_length=64)),
                ('request_id', models.CharField(max_length=64)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('finished_at', models.DateTimeField(null=True)),
                ('payment', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.payment')),
                ('refund', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.refund')),
            ],
            options={
                'db_table': 'payment_attempts',
            },
        ),
        migrations.CreateModel(
            name='LedgerEntry',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('posting', models.UUIDField()),
                ('gateway', models.CharField(max_length=20)),
                ('account', models.CharField(max_length=40)),
                ('amount', models.DecimalField(decimal_places=4, max_digits=19)),
                ('currency', models.CharField(max_length=3)),
                ('kind', models.CharField(max_length=20)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('order', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.order')),
                ('payment', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.payment')),
                ('refund', models.ForeignKey(db_index=False, null=True, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.refund')),
            ],
            options={
                'db_table': 'ledger_entries',
            },
        ),
        migrations.AddIndex(
            model_name='payment',
            index=models.Index(fields=['order', 'id'], name='idx_payments_order'),
        ),
        migrations.AddIndex(
            model_name='payment',
            index=models.Index(fields=['gateway', 'gateway_payment_id'], name='idx_payments_gateway_id'),
        ),
        migrations.AddIndex(
            model_name='payment',
            index=models.Index(condition=models.Q(('review_reason', ''), _negated=True), fields=['id'], name='idx_payments_review'),
        ),
        migrations.AddConstraint(
            model_name='payment',
            constraint=models.CheckConstraint(condition=models.Q(('status__in', ['requires_payment', 'processing', 'authorized', 'captured', 'failed', 'cancelled', 'unknown'])), name='ck_payments_status'),
        ),
        migrations.AddConstraint(
            model_name='payment',
            constraint=models.CheckConstraint(condition=models.Q(('amount__gt', 0), ('refunded_amount__gte', 0), ('captured_amount__lte', models.F('amount')), ('refunded_amount__lte', models.F('captured_amount'))), name='ck_payments_amounts'),
        ),
        migrations.AddConstraint(
            model_name='payment',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('captured_amount__gt', 0), ('status', 'captured')), models.Q(models.Q(('status', 'captured'), _negated=True), ('captured_amount', 0)), _connector='OR'), name='ck_payments_captured'),
        ),
        migrations.AddConstraint(
            model_name='payment',
            constraint=models.UniqueConstraint(fields=('reference',), name='uq_payments_reference'),
        ),
        migrations.AddConstraint(
            model_name='payment',
            constraint=models.UniqueConstraint(fields=('principal', 'client_key', 'generation'), name='uq_payments_client_key'),
        ),
        migrations.AddConstraint(
            model_name='payment',
            constraint=models.UniqueConstraint(condition=models.Q(('status__in', ['processing', 'requires_payment', 'unknown'])), fields=('order',), name='uq_payments_undecided'),
        ),
        migrations.AddIndex(
            model_name='gatewaynotice',
            index=models.Index(fields=['received_at'], name='idx_gateway_notices_received'),
        ),
        migrations.AddIndex(
            model_name='gatewaynotice',
            index=models.Index(fields=['payment', 'id'], name='idx_gateway_notices_payment'),
        ),
        migrations.AddConstraint(
            model_name='gatewaynotice',
            constraint=models.CheckConstraint(condition=models.Q(('verdict__in', ['accepted', 'duplicate', 'forged', 'stale', 'malformed', 'unknown_payment', 'mismatch'])), name='ck_gateway_notices_verdict'),
        ),
        migrations.AddConstraint(
            model_name='gatewaynotice',
            constraint=models.UniqueConstraint(condition=models.Q(('verdict', 'accepted')), fields=('gateway', 'event_id'), name='uq_gateway_notices_event'),
        ),
        migrations.AddIndex(
            model_name='refund',
            index=models.Index(fields=['payment', 'id'], name='idx_refunds_payment'),
        ),
        migrations.AddIndex(
            model_name='refund',
            index=models.Index(fields=['order', 'id'], name='idx_refunds_order'),
        ),
        migrations.AddConstraint(
            model_name='refund',
            constraint=models.CheckConstraint(condition=models.Q(('status__in', ['requested', 'processing', 'succeeded', 'failed', 'unknown'])), name='ck_refunds_status'),
        ),
        migrations.AddConstraint(
            model_name='refund',
            constraint=models.CheckConstraint(condition=models.Q(('amount__gt', 0)), name='ck_refunds_amount'),
        ),
        migrations.AddConstraint(
            model_name='refund',
            constraint=models.UniqueConstraint(fields=('reference',), name='uq_refunds_reference'),
        ),
        migrations.AddConstraint(
            model_name='refund',
            constraint=models.UniqueConstraint(condition=models.Q(('automatic', True)), fields=('payment',), name='uq_refunds_automatic'),
        ),
        migrations.AddIndex(
            model_name='paymentattempt',
            index=models.Index(fields=['payment', 'id'], name='idx_payment_attempts_payment'),
        ),
        migrations.AddIndex(
            model_name='paymentattempt',
            index=models.Index(condition=models.Q(('next_at__isnull', False)), fields=['next_at'], name='idx_payment_attempts_due'),
        ),
        migrations.AddIndex(
            model_name='paymentattempt',
            index=models.Index(condition=models.Q(('is_unknown', True)), fields=['first_sent_at'], name='idx_payment_attempts_unknown'),
        ),
        migrations.AddConstraint(
            model_name='paymentattempt',
            constraint=models.CheckConstraint(condition=models.Q(('state__in', ['due', 'running', 'unknown', 'succeeded', 'declined', 'not_executed', 'rejected'])), name='ck_payment_attempts_state'),
        ),
        migrations.AddConstraint(
            model_name='paymentattempt',
            constraint=models.CheckConstraint(condition=models.Q(('operation__in', ['authorise', 'capture', 'void', 'refund'])), name='ck_payment_attempts_operation'),
        ),
        migrations.AddConstraint(
            model_name='paymentattempt',
            constraint=models.CheckConstraint(condition=models.Q(('amount__gt', 0)), name='ck_payment_attempts_amount'),
        ),
        migrations.AddConstraint(
            model_name='paymentattempt',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('operation', 'refund'), ('refund__isnull', False)), models.Q(models.Q(('operation', 'refund'), _negated=True), ('refund__isnull', True)), _connector='OR'), name='ck_payment_attempts_refund'),
        ),
        migrations.AddConstraint(
            model_name='paymentattempt',
            constraint=models.UniqueConstraint(fields=('gateway_key',), name='uq_payment_attempts_key'),
        ),
        migrations.AddConstraint(
            model_name='paymentattempt',
            constraint=models.UniqueConstraint(condition=models.Q(('state__in', ['due', 'running', 'unknown']), models.Q(('operation', 'refund'), _negated=True)), fields=('payment',), name='uq_payment_attempts_open'),
        ),
        migrations.AddConstraint(
            model_name='paymentattempt',
            constraint=models.UniqueConstraint(condition=models.Q(('state__in', ['due', 'running', 'unknown'])), fields=('refund',), name='uq_payment_attempts_open_refund'),
        ),
        migrations.AddIndex(
            model_name='ledgerentry',
            index=models.Index(fields=['order', 'account'], name='idx_ledger_entries_order'),
        ),
        migrations.AddIndex(
            model_name='ledgerentry',
            index=models.Index(fields=['gateway', 'created_at'], name='idx_ledger_entries_gateway'),
        ),
        migrations.AddConstraint(
            model_name='ledgerentry',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('kind', 'capture'), ('refund__isnull', True)), models.Q(('kind', 'refund'), ('refund__isnull', False)), _connector='OR'), name='ck_ledger_entries_kind'),
        ),
        migrations.AddConstraint(
            model_name='ledgerentry',
            constraint=models.CheckConstraint(condition=models.Q(('amount', 0), _negated=True), name='ck_ledger_entries_amount'),
        ),
        migrations.AddConstraint(
            model_name='ledgerentry',
            constraint=models.UniqueConstraint(fields=('posting', 'account'), name='uq_ledger_entries_posting'),
        ),
        migrations.AddConstraint(
            model_name='ledgerentry',
            constraint=models.UniqueConstraint(condition=models.Q(('kind', 'capture')), fields=('payment', 'account'), name='uq_ledger_entries_capture'),
        ),
        migrations.AddConstraint(
            model_name='ledgerentry',
            constraint=models.UniqueConstraint(condition=models.Q(('kind', 'refund')), fields=('refund', 'account'), name='uq_ledger_entries_refund'),
        ),
        run_sql_file(SQL / "payments_v1.sql", reverse_sql=REVERSE),
        # What a gateway takes for the buyer, and what the client wrote, stay out of the trail.
        audited_table("payments", "payment", secret_columns=("client_key",)),
        audited_table("payment_attempts", "payment_attempt", secret_columns=("method", "return_url", "gateway_key")),
        audited_table("refunds", "refund", secret_columns=("client_key",)),
    ]
