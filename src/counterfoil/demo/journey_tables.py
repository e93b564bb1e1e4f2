"""The Complete Journey tables, cleaned: which lines are sales, what a product cost, how much of it was sold.

The only file that imports pyarrow, which comes with the extra `complete-journey`. Everything is done by column, so
1.5 million lines take a second. Amounts become whole cents as soon as they are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# Once fuel is gone, one line of 1.4 million is for more: a typing error or a wholesale buyer, not a basket.
QUANTITY_MAX: Final = 100
_BATCH_LINES: Final = 65_536
_LINE_COLUMNS: Final = ["household_id", "basket_id", "product_id", "quantity", "sales_value", "transaction_timestamp"]


@dataclass(frozen=True, slots=True)
class Cleaning:
    """How many lines were read and what happened to them; each dropped line counts once, for its first reason."""

    lines_read: int
    without_product: int
    fuel: int
    zero_quantity: int
    zero_sales: int
    quantity_capped: int

    @property
    def lines_kept(self) -> int:
        """Lines that can be sold again."""
        return self.lines_read - self.without_product - self.fuel - self.zero_quantity - self.zero_sales


@dataclass(frozen=True, slots=True)
class SoldProduct:
    """A product that was sold, as the tables describe it; None where they say nothing."""

    product_id: int
    manufacturer_id: int
    department: str
    category: str | None
    type: str | None
    brand: str
    package_size: str | None
    price_cents: int
    units_sold: int


def find_fuel(products: pa.Table) -> Any:
    """Return, per product, whether it is fuel, which is sold by volume: its quantity is not a number of pieces."""
    gasoline = pc.fill_null(pc.starts_with(products["product_type"], "GASOLINE"), False)
    return pc.or_(pc.equal(products["department"], "FUEL"), gasoline)


def clean_lines(lines: pa.Table, products: pa.Table) -> tuple[pa.Table, Cleaning]:
    """Keep the lines that are sales of known pieces and cap their quantities; the order stays."""
    read = len(lines)
    known = lines.filter(pc.is_in(lines["product_id"], products["product_id"].combine_chunks()))
    fuel = products.filter(find_fuel(products))["product_id"].combine_chunks()
    pieces = known.filter(pc.invert(pc.is_in(known["product_id"], fuel)))
    counted = pieces.filter(pc.greater(pieces["quantity"], 0))
    sold = counted.filter(pc.greater(counted["sales_value"], 0))
    capped = pc.min_element_wise(sold["quantity"], QUANTITY_MAX)
    cleaning = Cleaning(
        lines_read=read,
        without_product=read - len(known),
        fuel=len(known) - len(pieces),
        zero_quantity=len(pieces) - len(counted),
        zero_sales=len(counted) - len(sold),
        quantity_capped=pc.sum(pc.greater(sold["quantity"], QUANTITY_MAX), min_count=0).as_py(),
    )
    # Prices are derived from the original quantity, so the capped one stands beside it.
    return sold.append_column("units", capped), cleaning


def sum_up_sales(sold: pa.Table) -> pa.Table:
    """Return product_id, price_cents and units_sold of every product in cleaned lines, by product id.

    The price is the median, over all lines, of the price of one piece before the loyalty discount, rounded half up to
    a cent and at least one cent. Of an even number of lines it is the lower middle one: a price that was really asked.
    """
    asked = pc.add(_to_cents(sold["sales_value"]), _to_cents(sold["retail_disc"]))
    double = pc.multiply(sold["quantity"], 2)
    piece = pc.max_element_wise(pc.divide(pc.add(pc.multiply(asked, 2), sold["quantity"]), double), 1)
    lines = sold.select(["product_id", "units"]).append_column("piece_cents", piece)
    lines = lines.sort_by([("product_id", "ascending"), ("piece_cents", "ascending")])
    # Without threads the groups come in the order of the lines, so their places can be computed from their sizes.
    groups = lines.group_by("product_id", use_threads=False).aggregate([("units", "sum"), ("units", "count")])
    ends = pc.cumulative_sum(groups["units_count"])
    middles = pc.subtract(ends, pc.add(pc.divide(groups["units_count"], 2), 1))
    prices = lines["piece_cents"].combine_chunks().take(middles)
    return pa.table({"product_id": groups["product_id"], "price_cents": prices, "units_sold": groups["units_sum"]})


class JourneyTables:
    """The two Parquet files of a directory: transactions and products."""

    def __init__(self, directory: Path) -> None:
        """Read the products; the transactions are read when they are asked for."""
        self._transactions = directory / "transactions.parquet"
        self._products = pq.read_table(directory / "products.parquet")

    def read_households(self) -> list[int]:
        """Return every household that bought anything, in ascending order."""
        households = pq.read_table(self._transactions, columns=["household_id"])["household_id"]
        return sorted(pc.unique(households).to_pylist())

    def read_sold_products(self) -> tuple[list[SoldProduct], Cleaning]:
        """Return every product with a sale, best-selling first, and what cleaning did to the lines."""
        columns = ["product_id", "quantity", "sales_value", "retail_disc"]
        sold, cleaning = clean_lines(pq.read_table(self._transactions, columns=columns), self._products)
        described = sum_up_sales(sold).join(self._products, "product_id", join_type="inner")
        described = described.sort_by([("units_sold", "descending"), ("product_id", "ascending")])
        described = described.rename_columns({"product_category": "category", "product_type": "type"})
        rows = described.select(list(SoldProduct.__dataclass_fields__)).to_pylist()
        return [SoldProduct(**row) for row in rows], cleaning

    def iterate_lines(self) -> Iterator[tuple[int, int, int, int, int]]:
        """Yield (basket, household, product, units, Unix seconds) of every cleaned line, in the order of the file."""
        for batch in pq.ParquetFile(self._transactions).iter_batches(_BATCH_LINES, columns=_LINE_COLUMNS):
            lines, _ = clean_lines(pa.Table.from_batches([batch]), self._products)
            seconds = lines["transaction_timestamp"].cast(pa.timestamp("s")).cast(pa.int64())
            yield from zip(
                lines["basket_id"].to_pylist(),
                lines["household_id"].to_pylist(),
                lines["product_id"].to_pylist(),
                lines["units"].to_pylist(),
                seconds.to_pylist(),
                strict=True,
            )


def _to_cents(amounts: Any) -> Any:
    """Return whole cents, exactly: the tables hold 2.78 as the nearest binary fraction, far closer than half a cent."""
    return pc.cast(pc.round(pc.multiply(amounts, 100.0)), pa.int64())
