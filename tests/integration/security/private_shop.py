"""A shop with its keys in a database of their own, as in a deployment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from conftest import Service, run_counterfoil, running_service


@dataclass
class Shop:
    """Two databases and a file of master keys; `environment` names them to our own programs."""

    url: str
    keys_url: str
    keys_file: Path
    directory: Path

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.url,
            "COUNTERFOIL_KEYS_URL": self.keys_url,
            "COUNTERFOIL_MASTER_KEYS_FILE": str(self.keys_file),
        }

    def run(self, *arguments: str, check: bool = True) -> Any:
        return run_counterfoil(*arguments, check=check, **self.environment)

    @contextmanager
    def serve(self, **values: str) -> Iterator[Service]:
        environment = {name: value for name, value in self.environment.items() if name != "DATABASE_URL"}
        with running_service(self.url, self.directory, **environment, **values) as service:
            yield service

    def fetch(self, sql: str, *parameters: Any, keys: bool = False) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.keys_url if keys else self.url, autocommit=True) as connection:
            cursor = connection.execute(sql, parameters)
            return cursor.fetchall() if cursor.description else []


def make_shop(empty_database: Callable[[], str], directory: Path) -> Shop:
    """Make a migrated shop."""
    made = Shop(empty_database(), empty_database(), directory / "master.keys", directory)
    made.run("keys", "rotate", "--new")
    made.run("migrate")
    return made
