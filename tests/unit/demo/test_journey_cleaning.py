"""Which lines of Complete Journey are sales of pieces, and what a piece cost."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from counterfoil.demo.journey_tables import Cleaning, clean_lines, sum_up_sales

PRODUCTS = pa.table(
    {
        "product_id": [1, 2, 3, 4],
        "manufacturer_id": [69, 2, 2, 5],
        "department": ["GROCERY", "FUEL", "MISCELLANEOUS", "MISCELLANEOUS"],
        "brand": ["Private", "National", "National", "National"],
        "product_category": ["HOT CEREAL", "FUEL", "COUPON/MISC ITEMS", None],
        "product_type": ["STANDARD OATMEAL", "OTHER", "GASOLINE-REG UNLEADED", None],
        "package_size": ["18 OZ", None, None, None],
    }
)


def make_lines(*lines: tuple[int, int, float, float]) -> Any:
    """(product, quantity, sales value, loyalty discount) per line."""
    products, quantities, sales, discounts = zip(*lines, strict=True)
    return pa.table(
        {
            "product_id": pa.array(products, pa.int64()),
            "quantity": pa.array(quantities, pa.int64()),
            "sales_value": pa.array(sales, pa.float64()),
            "retail_disc": pa.array(discounts, pa.float64()),
        }
    )


def price_of(*lines: tuple[int, int, float, float]) -> int:
    sold, _ = clean_lines(make_lines(*lines), PRODUCTS)
    [price] = sum_up_sales(sold)["price_cents"].to_pylist()
    return int(price)


def test_lines_that_are_no_sales_of_pieces_are_dropped_and_counted_once_each() -> None:
    lines = make_lines(
        (1, 2, 2.78, 0.8),
        (99, 0, 0.0, 0.0),  # no such product; its zeros are not counted again
        (2, 9_976, 26.18, 0.0),  # fuel by department
        (3, 14_000, 32.23, 0.0),  # fuel by type
        (1, 0, 0.0, 0.0),
        (4, 1, 0.0, 0.0),
        (4, 1, 5.0, 0.0),  # a product without type or category is a product
    )

    sold, cleaning = clean_lines(lines, PRODUCTS)

    assert cleaning == Cleaning(
        lines_read=7, without_product=1, fuel=2, zero_quantity=1, zero_sales=1, quantity_capped=0
    )
    assert cleaning.lines_kept == 2
    assert sold["product_id"].to_pylist() == [1, 4]


def test_a_quantity_beyond_one_hundred_is_capped_and_the_price_is_that_of_the_real_quantity() -> None:
    sold, cleaning = clean_lines(make_lines((1, 144, 24.0, 0.0), (1, 100, 100.0, 0.0)), PRODUCTS)

    assert cleaning.quantity_capped == 1
    assert sold["units"].to_pylist() == [100, 100]
    assert sum_up_sales(sold).to_pylist() == [{"product_id": 1, "price_cents": 17, "units_sold": 200}]


def test_the_price_is_the_median_of_what_a_piece_cost_before_the_loyalty_discount() -> None:
    # 179, 150 and 200 cents a piece
    assert price_of((1, 2, 2.78, 0.8), (1, 1, 1.0, 0.5), (1, 1, 2.0, 0.0)) == 179


def test_of_an_even_number_of_lines_the_lower_middle_price_counts() -> None:
    assert price_of((1, 1, 1.0, 0.0), (1, 1, 2.0, 0.0), (1, 1, 9.0, 0.0), (1, 1, 4.0, 0.0)) == 200


def test_the_price_of_a_piece_is_rounded_half_up_to_a_cent() -> None:
    assert price_of((1, 2, 0.25, 0.0)) == 13
    assert price_of((1, 3, 1.0, 0.0)) == 33


def test_a_piece_costs_at_least_one_cent() -> None:
    assert price_of((1, 10, 0.01, 0.0)) == 1


def test_amounts_that_have_no_exact_binary_form_lose_no_cent() -> None:
    cents = list(range(1, 10_000))
    products = pa.table({"product_id": cents, "department": ["GROCERY"] * 9_999, "product_type": ["TEA"] * 9_999})

    sold, _ = clean_lines(make_lines(*((amount, 1, amount / 100, 0.0) for amount in cents)), products)

    assert sum_up_sales(sold)["price_cents"].to_pylist() == cents


def test_prices_and_units_are_those_of_each_product_whatever_the_order_of_the_lines() -> None:
    lines = make_lines((4, 1, 9.0, 0.0), (1, 1, 3.0, 0.0), (4, 2, 2.0, 0.0), (1, 1, 1.0, 0.0), (1, 5, 10.0, 0.0))

    sold, _ = clean_lines(lines, PRODUCTS)

    assert sum_up_sales(sold).to_pylist() == [
        {"product_id": 1, "price_cents": 200, "units_sold": 7},
        {"product_id": 4, "price_cents": 100, "units_sold": 3},
    ]


def test_tables_without_any_sale_give_no_products() -> None:
    sold, cleaning = clean_lines(make_lines((1, 0, 0.0, 0.0)), PRODUCTS)

    assert cleaning.lines_kept == 0
    assert sum_up_sales(sold).to_pylist() == []
