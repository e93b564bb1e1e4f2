"""Checks that no linter makes: lengths of files and functions, timeouts of migrations, nothing local in a file."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
FILE_LINES_MAX: Final = 400
FUNCTION_LINES_MAX: Final = 40
# Package indexes and absolute paths of a machine have no place in a file that others get.
_HOSTS: Final = ("pypi" + r"\.org", "python" + "hosted", r"registry\.npm" + "js", r"deb\.deb" + "ian")
_LOCAL: Final = re.compile("|".join([*_HOSTS, r"(?<![\w.-])/(?:work|root)/"]))


def main() -> int:
    """Print every finding; return 1 if there is one."""
    findings = list(_check_lengths()) + list(_check_migrations()) + list(_check_local())
    for finding in findings:
        print(finding)
    return 1 if findings else 0


def _check_lengths() -> Iterator[str]:
    for path in sorted(ROOT.glob("src/**/*.py")):
        if "migrations" in path.parts:
            continue
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > FILE_LINES_MAX:
            yield f"{path.relative_to(ROOT)}: {lines} lines, {FILE_LINES_MAX} allowed; split it by what it means"
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = _code_lines(node)
                if length > FUNCTION_LINES_MAX:
                    yield f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines"


def _code_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count a function's lines without its docstring."""
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (node.end_lineno or 0) - node.lineno + 1 - docstring


def _check_migrations() -> Iterator[str]:
    for path in sorted((ROOT / "src/counterfoil/migrations").glob("0*.py")):
        operations = path.read_text(encoding="utf-8").partition("operations = [")[2]
        if not operations.lstrip().startswith("set_timeouts("):
            yield f"{path.relative_to(ROOT)}: the first operation must be set_timeouts()"


def _check_local() -> Iterator[str]:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607 - git of whoever runs this
    for name in tracked.stdout.splitlines():
        path = ROOT / name
        if not path.is_file():
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="ignore").splitlines(), start=1):
            if _LOCAL.search(line):
                yield f"{name}:{number}: names a package index or a path of one machine"


if __name__ == "__main__":
    sys.exit(main())
