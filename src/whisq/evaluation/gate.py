"""Whether a file that was just written is sound: its rows hold what they should, and a runtime hears with it.

The source and the file transcribe the built-in speech in the same runtime, so that only the weights differ. How much of
the source's text a file has to share follows from the speech itself: a file that is further from what the source writes
than sentences of other recordings are hears nothing of it. Repeating itself, stopping early or writing nothing where
the source does not is the other way to be broken. Everything between is a figure, and told as one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from whisq.clips.builtin import Part, builtin_clips
from whisq.clips.clip import Clip
from whisq.errors import BrokenFileError
from whisq.evaluation.scoring import repeated_words
from whisq.extras import install_hint
from whisq.formats.layout import CONTAINERS
from whisq.formats.special_tokens import special_tokens
from whisq.kernels.threads import available_cpus
from whisq.model import Model
from whisq.progress import Progress, no_progress
from whisq.quantization.plan import Plan, make_plan
from whisq.quantization.readback import lost_rows
from whisq.quantization.write import quantize
from whisq.recipe import Recipe
from whisq.runtimes.process import WorkerError, WorkerProcess
from whisq.runtimes.registry import parse_runtime, runnable_runtimes
from whisq.runtimes.runtime import Runtime
from whisq.runtimes.worker import busy_s
from whisq.types import F16
from whisq.writing import scratch_folder

LANGUAGE = "en"
"""Of the recordings that are heard: all Whispers know it."""
_PARTS: tuple[Part, Part] = ("judge", "calibrate")
"""What is heard, and what is about something else."""
MOST_THREADS = 4
GLANCE_S = 0.2
"""How long others are watched before a runtime is given its threads."""
_SHOWN = 5
_WORD = re.compile(r"\w+(?:['’]\w+)*")


@dataclass(frozen=True, slots=True)
class Hearing:
    """What a file heard in a runtime beside its source: edits between their texts, in words of the source's.

    ``unrelated`` is how many edits the nearest of other texts is away. ``loops`` counts words that the file repeats and
    the source does not; ``stopped`` is what the runtime remarked of the file alone.
    """

    runtime: str
    words: int
    edits: int
    unrelated: int
    loops: int = 0
    stopped: str = ""

    @property
    def failure(self) -> str:
        """Why the file is broken, empty when it is not."""
        if self.loops:
            return f"it repeats itself ({self.loops} words), and the source does not"
        if self.stopped:
            return f"the runtime gave up on it ({self.stopped}), and not on the source"
        if self.words and self.edits >= self.unrelated:
            return (
                f"of {self.words} words that the source writes it takes {self.edits} edits, where a text about"
                f" something else takes {self.unrelated}"
            )
        return ""

    def __str__(self) -> str:
        if not self.words:
            return f"loads in {self.runtime}; the source writes nothing of the built-in speech, so nothing is compared"
        same = max(0.0, 1 - self.edits / self.words)
        needed = max(0.0, 1 - self.unrelated / self.words)
        return (
            f"of {self.words} words of the built-in speech, which is hard to make out, it hears {same:.0%} as the"
            f" source does (a broken file {needed:.0%} or less), in {self.runtime}"
        )


@dataclass(frozen=True, slots=True)
class Checked:
    """A file that passed: what was heard, or why nothing was (``unheard``, with a ``hint``)."""

    hearing: Hearing | None = None
    unheard: str = ""
    hint: str = ""

    def __str__(self) -> str:
        return f"checked: no row is lost; {self.hearing or self.unheard}"


def runtime_for(plan: Plan, target: str | None = None) -> Runtime | None:
    """Return the installed runtime that will hear a plan's file: the target, or one that loads it; None without any."""
    tensors = [(a.tensor.spec, a.type) for a in plan.assignments]
    wanted = parse_runtime(target) if target else None
    runtimes = sorted(runnable_runtimes(), key=lambda runtime: runtime is not wanted)
    here = (runtime for runtime in runtimes if runtime.installed_version())
    return next((runtime for runtime in here if not runtime.reasons_against(plan.container, tensors)), None)


def why_unheard(plan: Plan) -> tuple[str, str]:
    """Return why no runtime here can hear a plan's file, and what to do about it."""
    loading = {verdict.runtime for verdict in plan.verdicts if verdict.loads}
    missing = [runtime for runtime in runnable_runtimes() if runtime.name in loading]
    if missing:
        return f"it was not heard: {missing[0].name} is not installed", install_hint("evaluate")
    told = f"only {' and '.join(sorted(loading))} would load it" if loading else "no runtime loads it"
    return f"it was not heard: {told}, which Python cannot run", "transcribe something with it before you ship it"


def check_file(plan: Plan, path: Path, *, target: str | None = None, progress: Progress = no_progress) -> Checked:
    """Return what a file that was written of a plan does; raises ``BrokenFileError`` for one that is broken.

    ``path`` may be a file on its way, which does not have its name yet.
    """
    progress("checking the file", 0, 1)
    lost = lost_rows(plan.model, path, plan.calibration)
    if lost:
        more = f"\n  and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""
        listed = "".join(f"\n  {row}" for row in lost[:_SHOWN])
        count = "a row" if len(lost) == 1 else f"{len(lost)} rows"
        raise _broken(f"{count} of what was written hold nothing of the source:{listed}{more}")
    runtime = runtime_for(plan, target)
    if runtime is None:
        return Checked(None, *why_unheard(plan))
    try:
        hearing = _heard(plan, path, runtime)
    except WorkerError as error:
        raise _broken(f"{runtime.name} does not run what was written: {error}") from None
    progress("checking the file", 1, 1)
    if hearing.failure:
        raise _broken(f"{hearing.runtime} does not hear with what was written as with the source: {hearing.failure}")
    return Checked(hearing)


def _broken(message: str) -> BrokenFileError:
    return BrokenFileError(
        f"the file is broken and was not kept: {message}", hint="choose another type or method, and report this"
    )


def _heard(plan: Plan, path: Path, runtime: Runtime) -> Hearing:
    clips, rest = (_recordings(part, plan.model) for part in _PARTS)
    mine = _texts(runtime, path, clips)
    theirs = _of_source(plan.model, runtime, clips)
    others = [_words(clip.text) for clip in rest]
    words = edits = unrelated = loops = 0
    stopped = ""
    for (text, remark), (truth, source_remark) in zip(mine, theirs, strict=True):
        said, written = _words(truth), _words(text)
        words += len(said)
        edits += edit_distance(said, written)
        unrelated += min(edit_distance(said, other) for other in others)
        # As written: a loop may be of points alone.
        loops += max(0, len(repeated_words(text.split())) - len(repeated_words(truth.split())))
        stopped = stopped or ("" if source_remark else remark)
    return Hearing(f"{runtime.name} ({runtime.package} {runtime.installed_version()})", words, edits, unrelated, loops,
                   stopped)  # fmt: skip


def _recordings(part: Part, model: Model) -> list[Clip]:
    """Return the English half of a part of the built-in speech, none for a model that does not know English."""
    return [clip for clip in builtin_clips(part, special_tokens(model)).clips if clip.language == LANGUAGE]


def _of_source(model: Model, runtime: Runtime, clips: Sequence[Clip]) -> list[tuple[str, str]]:
    """Return what the source writes in a runtime: its own file where that loads, else one in f16."""
    tensors = [(tensor.spec, tensor.type) for tensor in model.tensors]
    if not runtime.reasons_against(model.format, tensors):
        return _texts(runtime, model.path, clips)
    with scratch_folder() as folder:
        container = runtime.containers[0]
        path = folder / f"source{CONTAINERS[container].suffix}"
        quantize(make_plan(model, Recipe(F16), container=container), path)
        return _texts(runtime, path, clips)


def _texts(runtime: Runtime, path: Path, clips: Sequence[Clip]) -> list[tuple[str, str]]:
    """Return what a model writes of each clip, and what the runtime remarks."""
    with WorkerProcess("whisq.runtimes.worker") as worker:
        worker.ask("load", runtime=runtime.name, path=str(path), threads=_idle_threads(), fallback=False)
        replies = [worker.ask("run", **clip.place(), language=clip.language) for clip in clips]
    return [(reply["text"], reply["remark"]) for reply in replies]


def _idle_threads() -> int:
    """Return how many threads a runtime is given: as many as CPUs are idle, one at least.

    Its threads spin while they wait for each other: one that others keep from its CPU holds up all of them, many times
    as long as it has to wait.
    """
    busy, started = busy_s(), time.perf_counter()
    if busy is None:
        return min(MOST_THREADS, available_cpus())
    time.sleep(GLANCE_S)
    others = ((busy_s() or 0.0) - busy) / (time.perf_counter() - started)
    return max(1, min(MOST_THREADS, round(available_cpus() - others)))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def edit_distance(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many words to put in, leave out or change make one text of another."""
    row = list(range(len(other) + 1))
    for i, word in enumerate(one, 1):
        above, row[0] = row[0], i
        for j, theirs in enumerate(other, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (word != theirs))
    return row[-1]
