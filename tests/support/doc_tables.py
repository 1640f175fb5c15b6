"""Tables of the documentation as the tests' own lists give them, so that a page cannot say something else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

PAGES = Path(__file__).parents[2] / "docs"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; of rows that are the same one stays."""
    lines = [list(header), ["---"] * len(header), *dict.fromkeys(tuple(row) for row in rows)]
    return "".join("| " + " | ".join(cells) + " |\n" for cells in lines)


def table_in(page: str, header: Sequence[str]) -> str:
    """Return the table with this header in a page of docs/, empty where there is none."""
    first = "| " + " | ".join(header) + " |\n"
    _, found, rest = (PAGES / page).read_text("utf-8").partition(first)
    return found + rest.partition("\n\n")[0] + "\n" if found else ""
