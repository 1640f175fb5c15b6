"""Optional packages: which are installed, and how to install what is missing."""

from __future__ import annotations

import importlib.util

from whisq.errors import MissingExtraError


def install_hint(extra: str) -> str:
    """Return what installs an extra. No index has a release yet: a checkout is what works."""
    return f"install the extra, in a checkout of whisq: pip install '.[{extra}]'"


def is_installed(package: str) -> bool:
    """Return whether a package can be imported; it is not imported."""
    return importlib.util.find_spec(package) is not None


def require_packages(*names: str, purpose: str, extra: str = "evaluate") -> None:
    """Raise ``MissingExtraError`` naming every package of these that is not installed."""
    missing = [name for name in names if not is_installed(name)]
    if missing:
        raise MissingExtraError(
            f"{purpose} needs {', '.join(name.replace('_', '-') for name in missing)}: not installed",
            hint=install_hint(extra),
        )


def require_audio() -> None:
    """Raise ``MissingExtraError`` unless soundfile and soxr can be imported."""
    require_packages("soundfile", "soxr", purpose="reading audio")


def require_torch() -> None:
    """Raise ``MissingExtraError`` unless torch can be imported."""
    require_packages("torch", purpose="running the model's own layers", extra="calibrate")
