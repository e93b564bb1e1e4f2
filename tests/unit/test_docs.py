"""Documentation: links that lead somewhere, markers that have partners, one number per decision."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from docs_text import BlockError, block_names, fence, replace_blocks, table

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    if not path.name.startswith(".")
)
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_CODE = re.compile(r"```.*?```", re.DOTALL)


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: str) -> None:
    path = ROOT / page
    broken = [
        link
        for link in _LINK.findall(_CODE.sub("", path.read_text(encoding="utf-8")))
        if not link.startswith(("http:", "https:", "mailto:")) and not leads_somewhere(path, link)
    ]

    assert broken == []


def leads_somewhere(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    if not target.exists():
        return False
    return not anchor or anchor in anchors(target)


def anchors(page: Path) -> set[str]:
    """Return the anchors that a Markdown viewer makes of a page's headings."""
    text = _CODE.sub("", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in _HEADING.findall(text)}


def test_every_test_that_a_page_names_is_there() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    there = set(re.findall(r"^(?:async )?def (test_\w+)", tests, re.MULTILINE))

    named = {
        (page, name)
        for page in PAGES
        for name in re.findall(r"`(test_\w+[a-z]\w*)`", (ROOT / page).read_text(encoding="utf-8"))
    }

    assert sorted((page, name) for page, name in named if name not in there) == []
    assert len(named) > 50


def test_every_page_under_docs_can_be_reached_from_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / link.partition("#")[0]).resolve() for link in _LINK.findall(index)}

    unreachable = [
        path.relative_to(ROOT).as_posix()
        for path in sorted((ROOT / "docs").glob("**/*.md"))
        if path.resolve() not in linked and path.name != "README.md" and path.parent.name != "benchmarks"
    ]

    assert unreachable == []


def test_decisions_are_numbered_without_a_gap_and_titled_with_their_number() -> None:
    decisions = sorted((ROOT / "docs/adr").glob("*.md"))

    assert [path.name[:4] for path in decisions] == [f"{number:04}" for number in range(1, len(decisions) + 1)]
    for path in decisions:
        assert path.read_text(encoding="utf-8").startswith(f"# {path.name[:4]}: "), path.name


def test_the_technical_design_keeps_its_fifteen_sections() -> None:
    text = (ROOT / "docs/technical-design.md").read_text(encoding="utf-8")

    assert re.findall(r"^### \d+\. (.+)$", text, re.MULTILINE) == [
        "Executive Summary",
        "Problem Statement",
        "Design Approach",
        "Component Design",
        "Data Model",
        "API Specification",
        "Code Structure",
        "Implementation Details",
        "Error Handling",
        "Performance Considerations",
        "Testing Strategy",
        "Deployment & Operations",
        "Security Considerations",
        "Dependencies & Risks",
        "Future Enhancements",
    ]


def test_the_technical_design_has_every_generated_block_once() -> None:
    names = block_names((ROOT / "docs/technical-design.md").read_text(encoding="utf-8"))

    assert sorted(names) == ["endpoints", "errors", "figures", "layout", "limits", "schema", "states", "versions"]


def test_the_commands_that_the_readme_names_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`counterfoil ([a-z-]+)", text))
    page = (ROOT / "docs/reference/cli.md").read_text(encoding="utf-8")

    assert named - set(re.findall(r"^## counterfoil ([a-z-]+)$", page, re.MULTILINE)) == set()


def test_the_make_targets_that_the_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = "\n".join((ROOT / page).read_text(encoding="utf-8") for page in PAGES)

    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE)) - targets == set()


def test_the_tests_that_the_technical_design_names_exist() -> None:
    text = (ROOT / "docs/technical-design.md").read_text(encoding="utf-8")
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").glob("**/test_*.py")))

    assert [name for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE) if f"def {name}(" not in code] == []


def test_replace_blocks_replaces_what_is_between_markers_and_nothing_else() -> None:
    page = "before\n<!-- generated: facts -->\nold\n<!-- end -->\nafter\n"

    once = replace_blocks(page, {"facts": "new\n", "unused": "x"})

    assert once == "before\n<!-- generated: facts -->\nnew\n<!-- end -->\nafter\n"
    assert replace_blocks(once, {"facts": "new\n"}) == once


@pytest.mark.parametrize(
    "page",
    [
        "<!-- generated: facts -->\nno end\n",
        "no beginning\n<!-- end -->\n",
        "<!-- generated: facts -->\n<!-- generated: facts -->\n<!-- end -->\n",
        "<!-- generated: unknown -->\n<!-- end -->\n",
    ],
)
def test_replace_blocks_refuses_a_marker_that_cannot_be_filled(page: str) -> None:
    with pytest.raises(BlockError):
        replace_blocks(page, {"facts": "new"})


def test_tables_keep_one_row_on_one_line() -> None:
    text = table(("name", "value"), [("a|b", "one\ntwo")])

    assert text == "| name | value |\n| --- | --- |\n| a\\|b | one two |\n"


def test_fences_end_on_a_line_of_their_own() -> None:
    assert fence("sql", "SELECT 1\n\n") == "```sql\nSELECT 1\n```\n"


def test_tracked_pages_name_no_machine() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "*.md", "docs"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode != 0:
        pytest.skip("not a git clone")
    local = re.compile(r"(?<![\w.:/-])/(?:tmp|home|root|work|mnt)/")

    naming = [
        name
        for name in sorted(set(listed.stdout.split()))
        if (ROOT / name).is_file() and local.search((ROOT / name).read_text(encoding="utf-8"))
    ]

    assert naming == []
