"""Make the pages that come from the code: ``python -m documentation``; tests/test_reference.py holds them to it."""

from __future__ import annotations

from pathlib import Path

from documentation import commands, messages, python_names

MADE = (commands, python_names, messages)
DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    """Write every page that is made from the code."""
    for maker in MADE:
        (DOCS / maker.PAGE).write_text(maker.page(), "utf-8")


if __name__ == "__main__":
    main()
