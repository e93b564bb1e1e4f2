"""Writes the generated parts of the documentation and the snapshots; `--check` only says which are stale.

No database is needed. The same code gives the same bytes.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
REFERENCE: Final = ROOT / "docs" / "reference"
SNAPSHOTS: Final = ROOT / "tests" / "fixtures" / "snapshots"
PAGES_WITH_BLOCKS: Final = (ROOT / "docs" / "technical-design.md",)


def main(arguments: list[str]) -> int:
    """Write what is stale, or with `--check` name it and return 1."""
    outputs = render_outputs()
    stale = [path for path, text in outputs.items() if _current(path) != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is stale; run `make docs`")
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(outputs[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


def render_outputs() -> dict[Path, str]:
    """Return file → text of everything that is generated."""
    _set_up()
    # Only now: the models can be imported once Django is set up.
    from docs_facts import render_blocks
    from docs_reference import render_pages, render_snapshots
    from docs_text import replace_blocks

    outputs = {REFERENCE / name: text for name, text in render_pages().items()}
    outputs |= {SNAPSHOTS / name: text for name, text in render_snapshots().items()}
    blocks = render_blocks()
    for page in PAGES_WITH_BLOCKS:
        outputs[page] = replace_blocks(page.read_text(encoding="utf-8"), blocks)
    return outputs


def _set_up() -> None:
    # What is documented are the defaults, whatever the environment of the person who runs this says.
    for name in [name for name in os.environ if name.startswith("COUNTERFOIL_") or name == "DATABASE_URL"]:
        del os.environ[name]
    # Never connected to: only the dialect of its SQL is wanted.
    os.environ["DATABASE_URL"] = "postgresql://localhost/none"
    os.environ["DJANGO_SETTINGS_MODULE"] = "counterfoil.config.settings"
    import django

    django.setup()


def _current(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
