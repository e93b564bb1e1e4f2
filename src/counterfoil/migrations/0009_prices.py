"""Tax, coupons and shipping: their columns and tables, and the function that places orders with them."""

from pathlib import Path

import django.db.models.deletion
import django.db.models.expressions
import django.db.models.functions.datetime
import django.db.models.functions.text
from django.conf import settings
from django.contrib.postgres.operations import AddConstraintNotValid
from django.db import migrations, models

from counterfoil.infrastructure.migration_operations import audited_table, run_sql_file, set_timeouts

SQL = Path(__file__).parent / "sql"
TAKE_BACK = "REVOKE INSERT ON adjustments FROM counterfoil_placement"


class Migration(migrations.Migration):
    """Only added to: the release before goes on with place_orders_v2(), which knows no tax, coupons and shipping."""

    dependencies = [
        ('counterfoil', '0008_order_life'),
    ]

    operations = [
        set_timeouts(),
        migrations.CreateModel(
            name='Coupon',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('code', models.CharField(max_length=40)),
                ('kind', models.CharField(max_length=10)),
                ('value', models.DecimalField(decimal_places=4, max_digits=19)),
                ('currency', models.CharField(max_length=3, null=True)),
                ('minimum_total', models.DecimalField(decimal_places=4, max_digits=19, null=True)),
                ('starts_at', models.DateTimeField(null=True)),
                ('ends_at', models.DateTimeField(null=True)),
                ('usage_limit', models.IntegerField(null=True)),
                ('per_customer_limit', models.IntegerField(null=True)),
                ('used', models.IntegerField(db_default=0)),
                ('active', models.BooleanField(db_default=True, default=True)),
                ('version', models.IntegerField(db_default=1)),
                ('created_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('updated_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
            ],
            options={
                'db_table': 'coupons',
            },
        ),
        migrations.CreateModel(
            name='CouponUse',
            fields=[
                ('id', models.BigAutoField(primary_key=True, serialize=False)),
                ('used_at', models.DateTimeField(db_default=django.db.models.functions.datetime.Now())),
                ('released_at', models.DateTimeField(null=True)),
            ],
            options={
                'db_table': 'coupon_uses',
            },
        ),
        migrations.AddField(
            model_name='adjustment',
            name='tax_amount',
            field=models.DecimalField(db_default=0, decimal_places=4, default=0, max_digits=19),
        ),
        migrations.AddField(
            model_name='adjustment',
            name='tax_rate',
            field=models.DecimalField(db_default=0, decimal_places=4, default=0, max_digits=6),
        ),
        migrations.AddField(
            model_name='order',
            name='tax_included',
            field=models.BooleanField(db_default=True, default=True),
        ),
        migrations.AddField(
            model_name='orderitem',
            name='discount_amount',
            field=models.DecimalField(db_default=0, decimal_places=4, default=0, max_digits=19),
        ),
        migrations.AddField(
            model_name='orderitem',
            name='tax_amount',
            field=models.DecimalField(db_default=0, decimal_places=4, default=0, max_digits=19),
        ),
        migrations.AddField(
            model_name='orderitem',
            name='tax_rate',
            field=models.DecimalField(db_default=0, decimal_places=4, default=0, max_digits=6),
        ),
        migrations.AddField(
            model_name='product',
            name='tax_rate',
            field=models.DecimalField(db_default=0, decimal_places=4, default=0, max_digits=6),
        ),
        # Not validated: every row that is there has the columns' defaults, which fit; a scan would stop all orders.
        AddConstraintNotValid(
            model_name='orderitem',
            constraint=models.CheckConstraint(condition=models.Q(('discount_amount__gte', 0), ('tax_amount__gte', 0), ('tax_rate__gte', 0), ('discount_amount__lte', django.db.models.expressions.CombinedExpression(models.F('quantity'), '*', models.F('unit_price')))), name='ck_order_items_parts'),
        ),
        migrations.AddConstraint(
            model_name='product',
            constraint=models.CheckConstraint(condition=models.Q(('tax_rate__gte', 0)), name='ck_products_tax_rate'),
        ),
        migrations.AddConstraint(
            model_name='coupon',
            constraint=models.UniqueConstraint(fields=('code',), name='uq_coupons_code'),
        ),
        migrations.AddConstraint(
            model_name='coupon',
            constraint=models.CheckConstraint(condition=models.Q(('code', django.db.models.functions.text.Upper(models.F('code')))), name='ck_coupons_code'),
        ),
        migrations.AddConstraint(
            model_name='coupon',
            constraint=models.CheckConstraint(condition=models.Q(('kind__in', ['percent', 'fixed'])), name='ck_coupons_kind'),
        ),
        migrations.AddConstraint(
            model_name='coupon',
            constraint=models.CheckConstraint(condition=models.Q(('value__gt', 0)), name='ck_coupons_value'),
        ),
        migrations.AddConstraint(
            model_name='coupon',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('kind', 'percent'), ('value__lte', 100)), models.Q(('currency__isnull', False), ('kind', 'fixed')), _connector='OR'), name='ck_coupons_benefit'),
        ),
        migrations.AddConstraint(
            model_name='coupon',
            constraint=models.CheckConstraint(condition=models.Q(('minimum_total__isnull', True), models.Q(('currency__isnull', False), ('minimum_total__gte', 0)), _connector='OR'), name='ck_coupons_minimum'),
        ),
        migrations.AddConstraint(
            model_name='coupon',
            constraint=models.CheckConstraint(condition=models.Q(('starts_at__isnull', True), ('ends_at__isnull', True), ('ends_at__gt', models.F('starts_at')), _connector='OR'), name='ck_coupons_period'),
        ),
        migrations.AddConstraint(
            model_name='coupon',
            constraint=models.CheckConstraint(condition=models.Q(('per_customer_limit__isnull', True), ('per_customer_limit__gte', 1), _connector='OR'), name='ck_coupons_customer'),
        ),
        migrations.AddConstraint(
            model_name='coupon',
            constraint=models.CheckConstraint(condition=models.Q(('used__gte', 0), models.Q(('usage_limit__isnull', True), ('used__lte', models.F('usage_limit')), _connector='OR')), name='ck_coupons_used'),
        ),
        migrations.AddField(
            model_name='couponuse',
            name='coupon',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.coupon'),
        ),
        migrations.AddField(
            model_name='couponuse',
            name='order',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to='counterfoil.order'),
        ),
        migrations.AddField(
            model_name='couponuse',
            name='user',
            field=models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, to=settings.AUTH_USER_MODEL),
        ),
        migrations.AddIndex(
            model_name='couponuse',
            index=models.Index(condition=models.Q(('released_at__isnull', True)), fields=['coupon', 'user'], name='idx_coupon_uses_customer'),
        ),
        migrations.AddConstraint(
            model_name='couponuse',
            constraint=models.UniqueConstraint(fields=('order', 'coupon'), name='uq_coupon_uses_order'),
        ),
        audited_table("coupons", "coupon"),
        audited_table("coupon_uses", "coupon_use"),
        run_sql_file(SQL / "coupon_ask_v1.sql", reverse_sql="DROP TYPE coupon_ask_v1"),
        run_sql_file(SQL / "price_order_v1.sql", reverse_sql="DROP FUNCTION price_order_v1"),
        run_sql_file(SQL / "place_orders_v3.sql", reverse_sql="DROP FUNCTION place_orders_v3"),
        run_sql_file(SQL / "placement_roles_v3.sql", reverse_sql=TAKE_BACK),
    ]
