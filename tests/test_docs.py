"""The pages: every link leads somewhere, every page is listed, and what a contributor is told to run exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "benchmarks" / "README.md"]
LINK = re.compile(r"\]\((?!https?://)([^)#\s]*)(?:#([^)\s]+))?\)")


def anchors(page):
    """Return the names that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    for path, anchor in LINK.findall(page.read_text("utf-8")):
        target = (page.parent / path) if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target), f"{path}#{anchor}"


def test_the_index_lists_every_page():
    listed = {path for path, _ in LINK.findall((ROOT / "docs" / "README.md").read_text("utf-8"))}
    docs = ROOT / "docs"
    assert {str(page.relative_to(docs)) for page in docs.rglob("*.md")} - {"README.md"} <= listed


def test_the_benchmarks_are_all_listed():
    told = (ROOT / "benchmarks" / "README.md").read_text("utf-8")
    for script in (ROOT / "benchmarks").glob("*.py"):
        assert script.name in told


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("adding-*.md")), ids=lambda page: page.name)
def test_a_page_for_contributors_is_short(page):
    assert len(page.read_text("utf-8").splitlines()) <= 60


def test_what_contributors_are_told_to_make_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    told = (ROOT / "CONTRIBUTING.md").read_text("utf-8") + (ROOT / ".ci" / "run").read_text("utf-8")
    found = re.findall(r"\bmake (?:--no-print-directory )?([a-z][a-z-]+)", told.replace("\n", " "))
    assert found
    assert set(found) <= targets


def test_ci_runs_the_readmes_own_commands():
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    commands = re.findall(r"```sh\n(.*?)\n```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    assert len(commands) >= 2
    for command in commands[:2]:
        assert command in script
