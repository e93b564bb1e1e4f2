"""Fulfillments, returns, holds and notes of orders."""

import django.db.models.deletion
import django.db.models.expressions
import django.db.models.functions.datetime
from django.db import migrations, models

from counterfoil.infrastructure.migration_operations import audited_table, set_timeouts


class Migration(migrations.Migration):
    """New tables only, and an index for the job that completes orders."""

    dependencies = [
        ('counterfoil', '0010_payments'),
    ]

    operations = [
        set_timeouts(),
        migrations.CreateModel(
            name='Fulfillment',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('status', models.CharField(db_default='pending', max_length=20)),
                ('carrier', models.CharField(db_default='', max_length=80)),
                ('tracking_number', models.CharField(db_default='', max_length=120)),
                ('tracking_url', models.CharField(db_default='', max_length=500)),
                ('created_by', models.CharField(max_length=64)),
                ('version', models.IntegerField(db_default=1)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('shipped_at', models.DateTimeField(null=True)),
                ('delivered_at', models.DateTimeField(null=True)),
            ],
            options={
                'db_table': 'fulfillments',
            },
        ),
        migrations.CreateModel(
            name='FulfillmentLine',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('quantity', models.IntegerField()),
            ],
            options={
                'db_table': 'fulfillment_lines',
            },
        ),
        migrations.CreateModel(
            name='Hold',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('reason', models.CharField(max_length=255)),
                ('placed_by', models.CharField(max_length=64)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('released_at', models.DateTimeField(null=True)),
                ('released_by', models.CharField(db_default='', max_length=64)),
            ],
            options={
                'db_table': 'holds',
            },
        ),
        migrations.CreateModel(
            name='OrderNote',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('body', models.BinaryField(null=True)),
                ('author', models.CharField(max_length=64)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'db_table': 'order_notes',
            },
        ),
        migrations.CreateModel(
            name='Return',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('status', models.CharField(db_default='requested', max_length=20)),
                ('reason', models.CharField(max_length=20)),
                ('decision', models.CharField(db_default='', max_length=255)),
                ('requested_by', models.CharField(max_length=64)),
                ('version', models.IntegerField(db_default=1)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'db_table': 'returns',
            },
        ),
        migrations.CreateModel(
            name='ReturnLine',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('quantity', models.IntegerField()),
                ('restocked', models.IntegerField(db_default=0)),
                ('damaged', models.IntegerField(db_default=0)),
            ],
            options={
                'db_table': 'return_lines',
            },
        ),
        migrations.AddIndex(
            model_name='order',
            index=models.Index(condition=models.Q(('status', 'confirmed')), fields=['return_until'], name='idx_orders_return_until'),
        ),
        migrations.AddField(
            model_name='fulfillment',
            name='order',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.order'),
        ),
        migrations.AddField(
            model_name='fulfillmentline',
            name='fulfillment',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.fulfillment'),
        ),
        migrations.AddField(
            model_name='fulfillmentline',
            name='order_item',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.orderitem'),
        ),
        migrations.AddField(
            model_name='hold',
            name='order',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.order'),
        ),
        migrations.AddField(
            model_name='ordernote',
            name='order',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.order'),
        ),
        migrations.AddField(
            model_name='return',
            name='order',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.order'),
        ),
        migrations.AddField(
            model_name='returnline',
            name='order_item',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.orderitem'),
        ),
        migrations.AddField(
            model_name='returnline',
            name='parent',
            field=models.ForeignKey(db_column='return_id', db_index=False, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.return'),
        ),
        migrations.AddIndex(
            model_name='fulfillment',
            index=models.Index(fields=['order'], name='idx_fulfillments_order'),
        ),
        migrations.AddConstraint(
            model_name='fulfillment',
            constraint=models.CheckConstraint(condition=models.Q(('status__in', ['pending', 'in_progress', 'shipped', 'delivered', 'cancelled'])), name='ck_fulfillments_status'),
        ),
        migrations.AddConstraint(
            model_name='fulfillment',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('shipped_at__isnull', False), ('status__in', ['shipped', 'delivered'])), models.Q(('shipped_at__isnull', True), ('status__in', ['pending', 'in_progress', 'cancelled'])), _connector='OR'), name='ck_fulfillments_shipped'),
        ),
        migrations.AddConstraint(
            model_name='fulfillment',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('delivered_at__isnull', False), ('status', 'delivered')), models.Q(models.Q(('status', 'delivered'), _negated=True), ('delivered_at__isnull', True)), _connector='OR'), name='ck_fulfillments_delivered'),
        ),
        migrations.AddIndex(
            model_name='fulfillmentline',
            index=models.Index(fields=['order_item'], name='idx_fulfillment_lines_item'),
        ),
        migrations.AddConstraint(
            model_name='fulfillmentline',
            constraint=models.UniqueConstraint(fields=('fulfillment', 'order_item'), name='uq_fulfillment_lines_item'),
        ),
        migrations.AddConstraint(
            model_name='fulfillmentline',
            constraint=models.CheckConstraint(condition=models.Q(('quantity__gte', 1)), name='ck_fulfillment_lines_quantity'),
        ),
        migrations.AddIndex(
            model_name='hold',
            index=models.Index(fields=['order'], name='idx_holds_order'),
        ),
        migrations.AddConstraint(
            model_name='hold',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('released_at__isnull', True), ('released_by', '')), models.Q(('released_at__isnull', False), models.Q(('released_by', ''), _negated=True)), _connector='OR'), name='ck_holds_released'),
        ),
        migrations.AddIndex(
            model_name='ordernote',
            index=models.Index(fields=['order'], name='idx_order_notes_order'),
        ),
        migrations.AddIndex(
            model_name='return',
            index=models.Index(fields=['order'], name='idx_returns_order'),
        ),
        migrations.AddConstraint(
            model_name='return',
            constraint=models.CheckConstraint(condition=models.Q(('status__in', ['requested', 'approved', 'declined', 'received', 'closed'])), name='ck_returns_status'),
        ),
        migrations.AddConstraint(
            model_name='return',
            constraint=models.CheckConstraint(condition=models.Q(('reason__in', ['damaged', 'wrong_item', 'not_as_described', 'too_late', 'no_longer_wanted', 'other'])), name='ck_returns_reason'),
        ),
        migrations.AddIndex(
            model_name='returnline',
            index=models.Index(fields=['order_item'], name='idx_return_lines_item'),
        ),
        migrations.AddConstraint(
            model_name='returnline',
            constraint=models.UniqueConstraint(fields=('parent', 'order_item'), name='uq_return_lines_item'),
        ),
        migrations.AddConstraint(
            model_name='returnline',
            constraint=models.CheckConstraint(condition=models.Q(('damaged__gte', 0), ('quantity__gte', 1), ('restocked__gte', 0), ('quantity__gte', django.db.models.expressions.CombinedExpression(models.F('restocked'), '+', models.F('damaged')))), name='ck_return_lines_units'),
        ),
        # A carrier's number leads to a person's door, and a note may say anything.
        audited_table("fulfillments", "fulfillment", secret_columns=("tracking_number", "tracking_url")),
        audited_table("fulfillment_lines", "fulfillment_line"),
        audited_table("holds", "hold"),
        audited_table("order_notes", "order_note", secret_columns=("body",)),
        audited_table("returns", "return"),
        audited_table("return_lines", "return_line"),
    ]
