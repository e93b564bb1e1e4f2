"""The function that decides and writes one batch of orders."""

from pathlib import Path

from django.db import migrations

from counterfoil.infrastructure.migration_operations import run_sql_file, set_timeouts

SQL = Path(__file__).parent / "sql"


class Migration(migrations.Migration):
    """Create minor_units_v1() and place_orders_v1()."""

    dependencies = [("counterfoil", "0001_orders_stock_and_trace")]

    operations = [
        set_timeouts(),
        run_sql_file(SQL / "minor_units_v1.sql", reverse_sql="DROP FUNCTION minor_units_v1"),
        run_sql_file(SQL / "place_orders_v1.sql", reverse_sql="DROP FUNCTION place_orders_v1"),
    ]
