"""A full disk: what the system says where there is no room."""

import errno
import os
from pathlib import Path

import pytest


def refusing(monkeypatch: pytest.MonkeyPatch, call: str, target: Path, number: int = errno.ENOSPC) -> None:
    """Have ``os.fsync`` or ``os.pwrite`` refuse, where they are called for what is to become ``target``."""
    real = getattr(os, call)

    def refuse(descriptor: int, *arguments: object) -> object:
        parts = target.parent.glob(f".{target.name}.*.part")
        if os.fstat(descriptor).st_ino in {part.stat().st_ino for part in parts}:
            raise OSError(number, os.strerror(number))
        return real(descriptor, *arguments)

    monkeypatch.setattr(f"os.{call}", refuse)
