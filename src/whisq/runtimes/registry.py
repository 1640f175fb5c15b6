"""All runtimes, and the questions that are asked of all of them.

The same values answer for a plan (before the file exists) and for a file (``whisq inspect``). The rest of whisq asks
here and never compares a name, so that a runtime added to ``RUNTIMES`` is known everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from whisq.errors import PlanError
from whisq.formats import container_of
from whisq.formats.layout import ContainerName
from whisq.runtimes.candle import CANDLE
from whisq.runtimes.runtime import Runtime, Verdict
from whisq.runtimes.transcribe_cpp import TRANSCRIBE_CPP
from whisq.runtimes.whisper_cpp import WHISPER_CPP, WHISPER_CPP_PR3605
from whisq.types import TensorType
from whisq.whisper import TensorSpec

RUNTIMES: tuple[Runtime, ...] = (WHISPER_CPP, WHISPER_CPP_PR3605, TRANSCRIBE_CPP, CANDLE)
"""In the order in which people are told of them."""


def find_runtime(text: str) -> Runtime | None:
    """Return the runtime that a user means by a name or an alias in any case, None when there is none."""
    key = text.strip().lower()
    return next((runtime for runtime in RUNTIMES if key in runtime.names), None)


def parse_runtime(text: str) -> Runtime:
    """Return the runtime that a user means; raises ``PlanError`` with the known names when there is none."""
    found = find_runtime(text)
    if found is None:
        from difflib import get_close_matches

        known = {name: runtime.name for runtime in RUNTIMES for name in runtime.names}
        near = get_close_matches(text.strip().lower(), known, n=1, cutoff=0.6)
        meant = f" (did you mean {known[near[0]]}?)" if near else ""
        names = " ".join(runtime.name for runtime in RUNTIMES)
        raise PlanError(f"unknown runtime '{text}'", hint=f"use one of: {names}{meant}")
    return found


def by_preference() -> tuple[Runtime, ...]:
    """Return all runtimes: first those that Python can run, and of them first those that load the most files."""
    return tuple(sorted(RUNTIMES, key=lambda runtime: (runtime.package is None, not runtime.loads_mixes)))


def runnable_runtimes() -> tuple[Runtime, ...]:
    """Return the runtimes that a Python package carries, installed or not, the preferred one first."""
    return tuple(runtime for runtime in by_preference() if runtime.package is not None)


def installed_runtimes() -> dict[str, str]:
    """Return the version of every runtime whose package is installed, by name, the preferred one first."""
    found = {runtime.name: runtime.installed_version() for runtime in runnable_runtimes()}
    return {name: version for name, version in found.items() if version is not None}


def container_for(path: Path, asked: str | None, runtime: Runtime | None) -> ContainerName:
    """Return the container to write: what was asked for, else what a name's suffix means to a runtime, or anywhere.

    Raises ``FormatError`` for a suffix of a container that is read only.
    """
    return container_of(path, asked) if asked is not None or runtime is None else runtime.container_for(path)


def is_readable(container: str) -> bool:
    """Return whether any runtime reads files of this container."""
    return any(container in runtime.containers for runtime in RUNTIMES)


def verdicts(container: str, tensors: Iterable[tuple[TensorSpec, TensorType]]) -> tuple[Verdict, ...]:
    """Return every runtime's verdict on a file of these tensors."""
    listed = list(tensors)
    return tuple(runtime.verdict(container, listed) for runtime in RUNTIMES)


def told(verdict_list: Iterable[Verdict]) -> list[Verdict]:
    """Return the verdicts that people want to see: a runtime with a container of its own only where it loads."""
    own = {runtime.name for runtime in RUNTIMES if runtime.reads_its_own}
    return [verdict for verdict in verdict_list if verdict.loads or verdict.runtime not in own]


def refusals(verdict_list: Iterable[Verdict]) -> str:
    """Return why runtimes do not load a file, as a sentence tells it."""
    return "; ".join(f"{v.runtime}: {' and '.join(v.reasons)}" for v in told(verdict_list) if not v.loads)
