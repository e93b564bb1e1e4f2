"""Looks every pinned package up in the list of known vulnerabilities; passes with a word where that is out of reach.

Ruff's rules of the group S, which `make check` runs as part of all, are those of bandit: no second tool reads the code.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
_SECONDS_MAX: Final = 90
# A vulnerability that does not concern us: its id, and the reason, which somebody has checked.
ACCEPTED: Final[dict[str, str]] = {}


def main() -> int:
    """Print every vulnerability that is not accepted; return 1 if there is one."""
    report = _ask()
    if report is None:
        print("audit: the list of vulnerabilities is not reachable; nothing was looked up")
        return 0
    findings, looked_up, skipped = judge(report)
    if looked_up == 0:
        print("audit: the list of vulnerabilities knows none of these packages here; nothing was looked up")
        return 0
    for finding in findings:
        print(finding)
    unknown = f", {skipped} unknown to the list" if skipped else ""
    print(f"audit: {looked_up} packages looked up{unknown}, {len(findings)} vulnerable")
    return 1 if findings else 0


def judge(report: dict[str, Any]) -> tuple[list[str], int, int]:
    """Return one line for each vulnerability that is not accepted, and how many packages were looked up and not."""
    packages = report["dependencies"]
    looked_up = [package for package in packages if "skip_reason" not in package]
    findings = [
        f"{package['name']} {package['version']}: {found['id']}, fixed in {', '.join(found['fix_versions']) or 'none'}"
        for package in looked_up
        for found in package.get("vulns", [])
        if not ACCEPTED.keys() & {found["id"], *found.get("aliases", [])}
    ]
    return findings, len(looked_up), len(packages) - len(looked_up)


def _ask() -> dict[str, Any] | None:
    command = [
        *(sys.executable, "-m", "pip_audit", "--requirement", "requirements/runtime.txt", "--require-hashes"),
        *("--disable-pip", "--format", "json", "--progress-spinner", "off", "--timeout", "3"),
    ]
    try:
        asked = subprocess.run(  # noqa: S603 - every word is ours
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=_SECONDS_MAX
        )
        report: dict[str, Any] = json.loads(asked.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return None
    return report


if __name__ == "__main__":
    sys.exit(main())
