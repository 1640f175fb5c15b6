"""With what an evaluation was made: versions and machine, for the results' own record."""

from __future__ import annotations

import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from whisq.runtimes.registry import runnable_runtimes
from whisq.version import __version__

_SCORERS = ("jiwer", "whisper-normalizer", "soundfile", "soxr", "torch")


def environment() -> dict[str, Any]:
    """Return versions of all that a number may depend on, the machine, and the time in UTC."""
    packages = {}
    for name in (*(str(runtime.package) for runtime in runnable_runtimes()), *_SCORERS):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "whisq": __version__,
        "packages": packages,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "cpu": _cpu_name(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
