"""Optional packages: which are installed, and how to install what is missing."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
from pathlib import Path
from urllib.parse import unquote, urlsplit

from whisq.errors import MissingExtraError
from whisq.system import quoted

SCORING = ("jiwer", "whisper_normalizer")
"""What counts the words that a transcript gets wrong."""
REPORTING = ("jinja2",)
"""What draws a report."""
ON_AN_INDEX = False
"""Whether a package index has whisq: until it does, extras are installed from where whisq itself was."""


def install_hint(extra: str) -> str:
    """Return what installs an extra, as it can be pasted."""
    if ON_AN_INDEX:
        return f"pip install 'whisq[{extra}]'"
    folder = _installed_from()
    if folder is not None:
        return f"pip install {folder[0]}{quoted(f'{folder[1]}[{extra}]')}"
    return f"in a checkout of whisq: pip install '.[{extra}]'"


def _installed_from() -> tuple[str, str] | None:
    """Return the option and the folder that pip was given to install whisq, while the folder is there."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError, ValueError):
        stated = importlib.metadata.distribution("whisq").read_text("direct_url.json")
        known = json.loads(stated or "{}")
        url = urlsplit(known.get("url", ""))
        folder = unquote(url.path)
        if url.scheme == "file" and Path(folder).is_dir():
            return ("-e " if known.get("dir_info", {}).get("editable") else "", folder)
    return None


def is_installed(package: str) -> bool:
    """Return whether a package can be imported; it is not imported."""
    return importlib.util.find_spec(package) is not None


def missing_packages(*names: str) -> list[str]:
    """Return those of these packages that are not installed, as pip calls them."""
    return [name.replace("_", "-") for name in names if not is_installed(name)]


def require_packages(*names: str, purpose: str, extra: str = "evaluate") -> None:
    """Raise ``MissingExtraError`` naming every package of these that is not installed."""
    missing = missing_packages(*names)
    if missing:
        raise MissingExtraError(f"{purpose} needs {', '.join(missing)}: not installed", hint=install_hint(extra))
