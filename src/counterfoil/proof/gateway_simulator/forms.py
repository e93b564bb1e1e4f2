"""Stripe's form encoding: `metadata[order]=1&items[0][price]=2` is a tree."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import parse_qsl

_FIELDS_MAX: Final = 200
_NAME: Final = re.compile(r"([^\[\]]+)((?:\[[^\[\]]*\])*)")
_PART: Final = re.compile(r"\[([^\[\]]*)\]")


def parse_form(text: str) -> dict[str, Any]:
    """Return the tree of a form or query; lists become dictionaries by position. Raises ValueError."""
    tree: dict[str, Any] = {}
    for name, value in parse_qsl(text, keep_blank_values=True, max_num_fields=_FIELDS_MAX):
        match = _NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"not a parameter name: {name}")
        path = [match[1], *_PART.findall(match[2])]
        branch = tree
        for step in path[:-1]:
            branch = branch.setdefault(step, {})
            if not isinstance(branch, dict):
                raise ValueError(f"{name} is a value and a branch")  # noqa: TRY004 - the input's fault, not a type's
        # `expand[]=a&expand[]=b` has no positions of its own.
        branch[path[-1] or str(len(branch))] = value
    return tree
