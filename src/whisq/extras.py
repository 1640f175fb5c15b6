"""Optional packages: which are installed, and how to install what is missing."""

from __future__ import annotations

import importlib.util

from whisq.errors import MissingExtraError

SCORING = ("jiwer", "whisper_normalizer")
"""What counts the words that a transcript gets wrong."""
REPORTING = ("jinja2", "plotly")
"""What draws a report."""


def install_hint(extra: str) -> str:
    """Return what installs an extra. No index has a release yet: a checkout is what works."""
    return f"install the extra, in a checkout of whisq: pip install '.[{extra}]'"


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
