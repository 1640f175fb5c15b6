"""Pages that are made from the code are what it makes of them now."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest

from documentation.__main__ import DOCS, MADE
from whisq.cli import COMMANDS


@pytest.mark.parametrize("maker", MADE, ids=lambda maker: maker.PAGE)
def test_a_page_is_what_the_code_makes(maker: ModuleType) -> None:
    assert maker.page() == (DOCS / maker.PAGE).read_text("utf-8"), "make it again: python -m documentation"


def test_every_command_and_option_is_there() -> None:
    page = (DOCS / "reference/commands.md").read_text("utf-8")
    for name in COMMANDS:
        assert f"\n## whisq {name}\n" in page
    assert "`--fail-if CONDITION`" in page
    assert "%(default" not in page


def test_messages_are_those_that_are_raised() -> None:
    """One of every section, as a user reads it."""
    page = (DOCS / "when-a-file-is-wrong.md").read_text("utf-8")
    for message in ("is an adapter (LoRA), not a model", "holds no samples", "no rows in it", "is not a condition"):
        assert message in page.replace("\\_", "_"), message


def test_the_list_of_pages_made_is_in_the_navigation() -> None:
    navigation = (Path(__file__).parents[2] / "mkdocs.yml").read_text("utf-8")
    for maker in MADE:
        assert maker.PAGE in navigation
