"""The page of what is said of a wrong file: every message of the code with its hint, by what was given."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import whisq
from whisq import errors

PAGE = "when-a-file-is-wrong.md"
SOURCE = Path(whisq.__file__).parent
SECTIONS = {
    "A model": ("formats", "model.py", "source_file.py"),
    "Speech, manifests and datasets": ("clips",),
    "A recipe, a rule or a type": ("recipe", "types.py", "quantization"),
    "A calibration or an imatrix": ("calibration",),
    "Results, searches and what they are judged by": ("evaluation", "search", "optimization", "compare.py", "report"),
    "Runtimes": ("runtimes", "network"),
    "Publishing": ("publishing",),
    "Any file that is read or written": ("documents.py", "records.py", "writing.py", "provenance.py", "extras.py"),
}
"""What the messages of a module are about, in the page's order."""
_MESSAGE_AT = {name: 0 for name in vars(errors) if name.endswith("Error")} | {"Problem": 1}
"""Which argument is the message, of what is raised and of what is wrong with a clip."""


def page() -> str:
    """Return the page in Markdown."""
    parts = [
        "# When a file is wrong\n",
        "Nothing in a file is believed before it is checked, and no output is written when a source is refused. Every\n"
        "message names the file and the place in it, and ends with what to do. These are all of them, made from the\n"
        "code by `python -m documentation`; … stands for what differs.\n",
    ]
    for title, places in SECTIONS.items():
        found = {row for place in places for row in _messages(SOURCE / place)}
        rows = sorted(found, key=lambda row: (row[0].lower(), row))
        if rows:
            parts.append(
                f"## {title}\n\n| it says | hint |\n| --- | --- |\n" + "".join(f"| {a} | {b} |\n" for a, b in rows)
            )
    return "\n".join(parts)


def _messages(place: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
        tree = ast.parse(path.read_text("utf-8"))
        constants = _constants(tree)
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            place_of = _MESSAGE_AT.get(node.func.id)
            if place_of is None or len(node.args) <= place_of:
                continue
            message = _text(node.args[place_of], constants)
            hint = next((_text(word.value, constants) for word in node.keywords if word.arg == "hint"), "–")
            if message and len(re.sub(r"\W|…", "", message)) > 3:
                yield _cell(re.sub(r"^… ?:? ", "", message)), _cell(hint or "–")


def _constants(tree: ast.Module) -> dict[str, ast.expr]:
    """Return the texts that a module gives names to."""
    return {
        node.targets[0].id: node.value
        for node in tree.body
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name)
    }


def _text(node: ast.expr, constants: dict[str, ast.expr]) -> str | None:
    """Return a text of the code with … for what is filled in, None for what is no text."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part, constants) or "…" if isinstance(part, ast.Constant) else "…" for part in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return f"{_text(node.left, constants) or '…'}{_text(node.right, constants) or '…'}"
    if isinstance(node, ast.Name) and isinstance(constants.get(node.id), ast.Constant | ast.JoinedStr):
        return _text(constants[node.id], constants)
    if isinstance(node, ast.Name):
        return _SHARED.get(node.id, "…")
    return "…"


def _shared() -> dict[str, str]:
    from whisq.calibration import calibration
    from whisq.formats import cursor

    found = {name: value for name, value in vars(cursor).items() if name.isupper() and isinstance(value, str)}
    return {**found, "AGAIN": calibration.AGAIN}


_SHARED = _shared()


def _cell(text: str) -> str:
    plain = re.sub(r"(?:… ?){2,}", "… ", re.sub(r"\s+", " ", text)).strip()
    plain = "(made for the case)" if plain == "…" else plain
    return plain.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
