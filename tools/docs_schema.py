"""The tables as SQL, from the models: no database is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from django.apps import apps
from django.db import connection
from psycopg import sql as psycopg_sql

# In the order in which one explains them; a table that is not named here comes after these, by name.
_ORDER: Final = ("users", "profiles", "products", "stock_levels", "stock_movements", "orders", "order_items")
_CREATE: Final = re.compile(r"CREATE TABLE (\w+) \((.*)\)$", re.DOTALL)
_CONSTRAINT: Final = re.compile(r"ALTER TABLE (\w+) ADD (CONSTRAINT .*)$", re.DOTALL)
_INDEX: Final = re.compile(r"CREATE (?:UNIQUE )?INDEX \w+ ON (\w+) ", re.DOTALL)


class _Collector(connection.SchemaEditorClass):  # type: ignore[misc,name-defined] # chosen by Django at run time
    """Writes down what it would do; values are quoted without a connection."""

    def __init__(self) -> None:
        super().__init__(connection, collect_sql=True, atomic=False)
        self.deferred_sql: list[Any] = []

    def execute(self, sql: Any, params: Any = ()) -> None:
        text = str(sql)
        self.collected_sql.append(text % tuple(psycopg_sql.quote(value) for value in params) if params else text)


def render_schema() -> str:
    """Return `CREATE TABLE` with every constraint, followed by its indexes, for each table."""
    collector = _Collector()
    for model in apps.get_app_config("counterfoil").get_models():
        collector.create_model(model)
    statements = [_plain(str(statement)) for statement in [*collector.collected_sql, *collector.deferred_sql]]
    bodies = {match[1]: _split(match[2]) for text in statements if (match := _CREATE.match(text))}
    indexes: dict[str, list[str]] = {name: [] for name in bodies}
    for text in statements:
        if match := _CONSTRAINT.match(text):
            bodies[match[1]].append(match[2])
        elif match := _INDEX.match(text):
            indexes[match[1]].append(f"{text};")
    return "\n\n".join(_render_table(name, bodies[name], indexes[name]) for name in _sorted(bodies))


def _sorted(names: dict[str, list[str]]) -> list[str]:
    known = [name for name in _ORDER if name in names]
    return known + sorted(set(names) - set(known))


def _render_table(name: str, parts: list[str], indexes: list[str]) -> str:
    columns = [part for part in parts if not part.startswith(("CONSTRAINT", "PRIMARY KEY"))]
    constraints = sorted(part for part in parts if part not in columns)
    body = ",\n".join(f"  {part}" for part in [*columns, *constraints])
    return "\n".join([f"CREATE TABLE {name} (\n{body}\n);", *sorted(indexes)])


def _plain(statement: str) -> str:
    for before, after in (
        ('"', ""),
        ("timestamp with time zone", "timestamptz"),
        ("DEFAULT (STATEMENT_TIMESTAMP())", "DEFAULT statement_timestamp()"),
    ):
        statement = statement.replace(before, after)
    return statement


def _split(body: str) -> list[str]:
    """Split at the commas that are outside of parentheses."""
    return [part.strip() for part in _pieces(body)]


def _pieces(body: str) -> Iterator[str]:
    depth, start = 0, 0
    for position, character in enumerate(body):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "," and depth == 0:
            yield body[start:position]
            start = position + 1
    yield body[start:]
