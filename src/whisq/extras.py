"""Optional packages: which are installed, and how to install what is missing."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re

from whisq.errors import MissingExtraError
from whisq.system import quoted

SCORING = ("jiwer", "whisper_normalizer")
"""What counts the words that a transcript gets wrong."""
REPORTING = ("jinja2",)
"""What draws a report."""
ON_AN_INDEX = False
"""Whether a package index has whisq: until it does, the packages of an extra are named one by one."""


def install_hint(extra: str) -> str:
    """Return what installs an extra, as it can be pasted; whisq itself is there, and is not made again."""
    if ON_AN_INDEX:
        return f"pip install {quoted(f'whisq[{extra}]')}"
    packages = _packages_of(extra)
    if packages:
        return f"pip install {' '.join(map(quoted, packages))}"
    return f"in a checkout of whisq: pip install '.[{extra}]'"


def _packages_of(extra: str) -> list[str]:
    """Return what an extra asks for, as whisq's own metadata has it; empty where whisq was never installed."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        stated = [line.partition(";") for line in importlib.metadata.requires("whisq") or ()]
        return [
            package.replace(" ", "")
            for package, _, marker in stated
            if re.fullmatch(rf"""\s*extra\s*==\s*["']{re.escape(extra)}["']\s*""", marker)
        ]
    return []


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
