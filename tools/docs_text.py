"""Markdown by hand: tables, and blocks between markers that are replaced as a whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

NOTE: Final = "<!-- Written by `make docs`; change the code, not this page. -->\n\n"
_BLOCK: Final = re.compile(r"(<!-- generated: (?P<name>[a-z_]+) -->\n)(?P<body>.*?)(<!-- end -->)", re.DOTALL)
_MARKER: Final = re.compile(r"<!-- (generated: [a-z_]+|end) -->")


class BlockError(Exception):
    """A marker in a page has no partner, or names a block that nobody generates."""


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table with one line per row; bars in cells are escaped."""
    lines = [_row(headings), _row(["---"] * len(headings))]
    lines += [_row(row) for row in rows]
    return "\n".join(lines) + "\n"


def fence(language: str, text: str) -> str:
    """Return a fenced block of code."""
    return f"```{language}\n{text.rstrip()}\n```\n"


def first_line(docstring: str | None) -> str:
    """Return a docstring's first line, or nothing."""
    return (docstring or "").strip().partition("\n")[0].strip()


def block_names(page: str) -> list[str]:
    """Return the names of the page's generated blocks in their order; raises BlockError for a marker alone."""
    names = [match["name"] for match in _BLOCK.finditer(page)]
    if 2 * len(names) != len(_MARKER.findall(page)):
        raise BlockError("a marker `<!-- generated: … -->` has no `<!-- end -->`, or the other way round")
    return names


def replace_blocks(page: str, blocks: Mapping[str, str]) -> str:
    """Return the page with every generated block as it is now; raises BlockError for a name without a block."""
    for name in block_names(page):
        if name not in blocks:
            raise BlockError(f"nothing generates the block {name!r}")
    return _BLOCK.sub(lambda match: f"{match[1]}{blocks[match['name']].strip()}\n{match[4]}", page)


def _row(cells: Sequence[object]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
