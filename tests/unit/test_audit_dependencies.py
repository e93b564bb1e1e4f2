"""A known vulnerability fails the check, unless somebody has written down why it does not concern us."""

from __future__ import annotations

from typing import Any

import audit_dependencies
import pytest
from audit_dependencies import judge


def report(**found: Any) -> dict[str, Any]:
    vulnerability = {"id": "PYSEC-2026-1", "fix_versions": ["1.1"], "aliases": ["CVE-2026-1"], **found}
    return {
        "dependencies": [
            {"name": "good", "version": "2.0", "vulns": []},
            {"name": "bad", "version": "1.0", "vulns": [vulnerability]},
            {"name": "own", "skip_reason": "not on the index"},
        ]
    }


def test_a_vulnerability_is_named_with_what_mends_it() -> None:
    assert judge(report()) == (["bad 1.0: PYSEC-2026-1, fixed in 1.1"], 2, 1)
    assert judge(report(fix_versions=[]))[0] == ["bad 1.0: PYSEC-2026-1, fixed in none"]


@pytest.mark.parametrize("name", ["PYSEC-2026-1", "CVE-2026-1"])
def test_an_accepted_one_is_left_out_under_any_of_its_names(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(audit_dependencies, "ACCEPTED", {name: "the function is never called"})

    assert judge(report()) == ([], 2, 1)


def test_every_accepted_one_has_its_reason() -> None:
    assert [name for name, reason in audit_dependencies.ACCEPTED.items() if len(reason) < 20] == []
