"""What the life of an order after its placement is stored in, and that each of its turns happens once."""

import django.db.models.expressions
from django.db import migrations, models

from counterfoil.infrastructure.migration_operations import set_timeouts

class Migration(migrations.Migration):
    """Columns with defaults in the database: the release before goes on writing orders."""

    dependencies = [
        ('counterfoil', '0007_audit_of_access'),
    ]

    operations = [
        set_timeouts(),
        migrations.AddConstraint(
            model_name="outboxevent",
            constraint=models.UniqueConstraint(
                fields=["aggregate_id", "type"],
                condition=models.Q(
                    aggregate="order",
                    type__in=["order.confirmed", "order.cancelled", "order.discarded", "order.completed"],
                ),
                name="uq_outbox_events_once",
            ),
        ),
        migrations.RemoveConstraint(
            model_name='stockmovement',
            name='ck_stock_movements_kind',
        ),
        migrations.RemoveConstraint(
            model_name='stockmovement',
            name='ck_stock_movements_shape',
        ),
        migrations.AddField(
            model_name='order',
            name='authorized_amount',
            field=models.DecimalField(db_default=0, decimal_places=4, max_digits=19),
        ),
        migrations.AddField(
            model_name='order',
            name='cancel_until',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='order',
            name='captured_amount',
            field=models.DecimalField(db_default=0, decimal_places=4, max_digits=19),
        ),
        migrations.AddField(
            model_name='order',
            name='has_open_return',
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddField(
            model_name='order',
            name='is_held',
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddField(
            model_name='order',
            name='payment_in_flight',
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddField(
            model_name='order',
            name='payment_unknown',
            field=models.BooleanField(db_default=False, default=False),
        ),
        migrations.AddField(
            model_name='order',
            name='refunded_amount',
            field=models.DecimalField(db_default=0, decimal_places=4, max_digits=19),
        ),
        migrations.AddField(
            model_name='order',
            name='return_until',
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name='orderitem',
            name='returned',
            field=models.IntegerField(db_default=0),
        ),
        migrations.AddField(
            model_name='orderitem',
            name='shipped',
            field=models.IntegerField(db_default=0),
        ),
        migrations.AddConstraint(
            model_name='order',
            constraint=models.CheckConstraint(condition=models.Q(('authorized_amount__gte', 0), ('captured_amount__gte', models.F('refunded_amount')), ('refunded_amount__gte', 0)), name='ck_orders_money'),
        ),
        migrations.AddConstraint(
            model_name='orderitem',
            constraint=models.CheckConstraint(condition=models.Q(('quantity__gte', models.F('shipped')), ('returned__gte', 0), ('shipped__gte', models.F('returned'))), name='ck_order_items_shipped'),
        ),
        migrations.AddConstraint(
            model_name='stockmovement',
            constraint=models.CheckConstraint(condition=models.Q(('kind__in', ['receipt', 'adjustment', 'loss', 'reserve', 'release', 'allocate', 'deallocate', 'dispatch', 'return'])), name='ck_stock_movements_kind'),
        ),
        migrations.AddConstraint(
            model_name='stockmovement',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('allocated_delta', 0), ('kind', 'receipt'), ('on_hand_delta__gt', 0), ('reserved_delta', 0)), models.Q(('allocated_delta', 0), ('kind', 'adjustment'), ('reserved_delta', 0)), models.Q(('allocated_delta', 0), ('kind', 'loss'), ('on_hand_delta__lt', 0), ('reserved_delta', 0)), models.Q(('allocated_delta', 0), ('kind', 'reserve'), ('on_hand_delta', 0), ('reserved_delta__gt', 0)), models.Q(('allocated_delta', 0), ('kind', 'release'), ('on_hand_delta', 0), ('reserved_delta__lt', 0)), models.Q(('allocated_delta', django.db.models.expressions.CombinedExpression(models.F('reserved_delta'), '*', models.Value(-1))), ('kind', 'allocate'), ('on_hand_delta', 0), ('reserved_delta__lt', 0)), models.Q(('allocated_delta__lt', 0), ('kind', 'deallocate'), ('on_hand_delta', 0), ('reserved_delta', 0)), models.Q(('allocated_delta', models.F('on_hand_delta')), ('kind', 'dispatch'), ('on_hand_delta__lt', 0), ('reserved_delta', 0)), models.Q(('allocated_delta', 0), ('kind', 'return'), ('on_hand_delta__gt', 0), ('reserved_delta', 0)), _connector='OR'), name='ck_stock_movements_shape'),
        ),
    ]
