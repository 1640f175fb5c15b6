"""Where output goes: data on stdout, everything else on stderr; progress as bars on a terminal, as lines elsewhere.

Every line that whisq prints goes through here, where what a terminal would obey is shown as an escape.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, TextIO

from whisq.errors import OutputError, WhisqError
from whisq.progress import TimeLeft
from whisq.screen import shown, shown_lines
from whisq.system import obeys_escapes

if TYPE_CHECKING:
    import argparse

    from whisq.work import Account, Executor, Outline

SCHEMA_VERSION = 1
"""Of what ``--json`` prints; counted up when a field goes or changes its meaning."""
INTERNAL = 2
"""Exit code of an error that is whisq's own."""
CONDITION_MET = 3
"""Exit code where what ``--fail-if`` names holds."""
NOTE_EVERY_S = 60
"""How often a line says how far long work is, where no bar can."""
GLANCE_S = 20
"""What is done by then needs no line for each of its stages."""
_UNBROKEN = 1 << 16
_LAST_STREAM = 2
_STEPS = 1000
"""Steps of a bar."""
_STYLES = {"error": "1;31", "warning": "1;33", "hint": "1;36", "note": "1;36"}


def prepare_streams() -> None:
    """Let no stream end a command: what its encoding lacks is shown as an escape, and one that is closed takes all."""
    # Services are started without streams, and `>&-` does it: else the next file opened would be one of them, and
    # what a library prints would get into it.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _LAST_STREAM:
        pass
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115, PTH123 - stays open until exit
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def discard_stdout() -> None:
    """Send what is still printed nowhere, once the reader of stdout has gone: Python's exit would complain."""
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - stays open until exit


def documented(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document of the published schema with its name."""
    return {"schema": f"whisq-{name}", "schema_version": SCHEMA_VERSION, **fields}


class Console:
    """The streams of one command. ``quiet`` drops lines of data and notes, never warnings and errors.

    With ``as_json`` stdout has one JSON document, the result or the error, and no line of data; stderr is as ever.
    """

    def __init__(self, *, quiet: bool = False, as_json: bool = False) -> None:
        self.quiet, self.as_json = quiet, as_json
        self._stdout_is_gone = False
        self._lost: OutputError | None = None

    @property
    def width(self) -> int:
        """Characters in a line of stdout; where it is no terminal, more than any line has."""
        return shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNBROKEN

    def data(self, text: str = "") -> None:
        """Print a line of the command's result on stdout."""
        if not self.quiet and not self.as_json:
            self._print(text)

    def result(self, command: str, fields: Mapping[str, Any]) -> None:
        """Print what a command found, where that is wanted as JSON: of the schema in docs/, named for the command."""
        if self.as_json:
            self.json(documented(command, fields))

    def json(self, document: Any) -> None:
        """Print the command's result as JSON on stdout, in ASCII: its own escapes keep every character.

        Not dropped by ``quiet``: it was asked for, and an empty file is no JSON.
        """
        import json

        for line in json.dumps(document, indent=2).replace("\x7f", "\\u007f").split("\n"):
            self._print(line)

    def _print(self, line: str) -> None:
        if self._stdout_is_gone:
            return
        # A reader that has gone, or no room: `whisq quantize … | head` must still finish its file.
        with self._taking_losses():
            print(shown_lines(line), flush=False)

    def flush(self) -> None:
        """Have all data where it goes; raises ``OutputError`` where some did not get there for want of room."""
        self._flush_data()
        if self._lost is not None:
            raise self._lost

    @contextlib.contextmanager
    def _taking_losses(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if not isinstance(error, BrokenPipeError):
                self._lost = OutputError(
                    f"stdout: cannot be written: {error.strerror or error}",
                    hint="free some space, or send it elsewhere; whatever file was asked for is written all the same",
                )
            self._stdout_is_gone = True
            discard_stdout()

    def note(self, text: str) -> None:
        """Print a remark on stderr."""
        if not self.quiet:
            self._flush_data()
            _say(shown_lines(text))

    def note_always(self, text: str) -> None:
        """Print a note that ``quiet`` does not drop on stderr: what a file that was written can be used for."""
        self._labelled("note", text, None)

    def warn(self, message: str, hint: str | None = None) -> None:
        """Print a warning on stderr."""
        self._labelled("warning", message, hint)

    def error(self, error: WhisqError, exit_code: int = 1) -> None:
        """Print an error and its hint on stderr, and as JSON on stdout where results would be."""
        self._labelled("error", str(error), error.hint)
        kind = "internal" if exit_code == INTERNAL else type(error).__name__
        self.result("error", {"exit_code": exit_code, "kind": kind, "message": str(error), "hint": error.hint})
        if self.as_json:
            self._flush_data()

    def _labelled(self, label: str, message: str, hint: str | None) -> None:
        self._flush_data()
        _say(f"{_styled(label, sys.stderr)}: {shown_lines(message)}")
        if hint:
            _say(f"{_styled('hint', sys.stderr)}: {shown_lines(hint)}")

    def _flush_data(self) -> None:
        with self._taking_losses():
            sys.stdout.flush()

    @contextlib.contextmanager
    def progress(self, total: int, label: str) -> Iterator[Callable[[int], None]]:
        """Show a bar with time left on stderr if that is a terminal; give what advances it."""
        with self.bar(total, label) as advance:
            yield advance

    @contextlib.contextmanager
    def bar(self, total: int, label: str) -> Iterator[Callable[..., None]]:
        """Show the same; what advances it takes another label, too."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda amount, label="": None
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self._flush_data()
        # Without markup: a label with brackets in it is not rich's to read.
        description = TextColumn("{task.description}", markup=False)
        columns = (description, BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with RichProgress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
            task = bar.add_task(shown(label), total=total)
            yield lambda amount, label="": bar.update(task, advance=amount, description=shown(label) if label else None)

    @contextlib.contextmanager
    def stages(self, account: Account | None = None) -> Iterator[Stages]:
        """Give what shows how far work in several stages is: a bar for each, or a line per minute without a terminal.

        It may be called from any thread. With the account of a cluster's work that is shown, too, and noted at the end.
        """
        beside = account.line if account is not None else str
        if not sys.stderr.isatty():
            yield _Lines(self, beside)
        else:
            with contextlib.ExitStack() as stack:
                yield _Bars(self, beside, stack)
        if told := beside():
            self.note(f"units by node: {told}")

    def settle_device(self, args: argparse.Namespace) -> None:
        """Put what is there in the place of ``--device auto``, and say what that is."""
        if args.device == "auto":
            from whisq.network.devices import device_there

            args.device = device_there()
            self.note(f"--device auto: {args.device}")

    @contextlib.contextmanager
    def executor(self, address: str | None) -> Iterator[Executor]:
        """Give who does the work: the cluster of ``--ray`` or WHISQ_RAY, else this process."""
        from whisq.work import asked_address, executor_at

        with contextlib.closing(executor_at(asked_address(address), self.note)) as found:
            yield found

    def outline(self, command: str, outline: Outline) -> None:
        """Print what work would take, for ``--plan``."""
        for line in outline.lines():
            self.data(line)
        self.result("plan", outline.document(command))


class Stages(ABC):
    """How far work in several stages is, and what all of them will still take where it was said what to expect."""

    def __init__(self, console: Console, beside: Callable[[], str]) -> None:
        self._console, self._beside, self._lock = console, beside, threading.Lock()
        self._stage = ""
        self._left: TimeLeft | None = None

    def expect(self, shares: Mapping[str, float]) -> None:
        """Take the stages to come, in order, each with how long it takes compared with the others."""
        self._left = TimeLeft(shares, time.monotonic)

    def __call__(self, stage: str, done: float, total: float) -> None:
        """Show how far a stage is."""
        with self._lock:
            left_s = self._left.at(stage, done, total) if self._left is not None else None
            everything = "" if left_s is None else f"{_minutes(left_s)} for everything"
            self._show(stage, done, total, "; ".join(filter(None, (everything, self._beside()))))

    @abstractmethod
    def _show(self, stage: str, done: float, total: float, all_left: str) -> None:
        """Show it, with what is said of all stages together."""


class _Bars(Stages):
    """One bar for each stage, one after the other, with the time left."""

    def __init__(self, console: Console, beside: Callable[[], str], stack: contextlib.ExitStack) -> None:
        super().__init__(console, beside)
        self._stack, self._shown = stack, 0

    def _show(self, stage: str, done: float, total: float, all_left: str) -> None:
        if stage != self._stage:
            self._stack.close()
            self._advance = self._stack.enter_context(self._console.bar(_STEPS, stage))
            self._stage, self._shown = stage, 0
        now = max(self._shown, round(_STEPS * done / total) if total else _STEPS)
        self._advance(now - self._shown, shown(f"{stage} ({all_left})" if all_left else stage))
        self._shown = now


class _Lines(Stages):
    """A line per minute for logs, with the time left, and one for each stage of what takes longer than a glance."""

    def __init__(self, console: Console, beside: Callable[[], str]) -> None:
        super().__init__(console, beside)
        self._started, self._told = 0.0, 0.0
        self._began: float | None = None

    def _show(self, stage: str, done: float, total: float, all_left: str) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._began = now if self._began is None else self._began
            if now - self._began >= GLANCE_S:
                self._console.note(f"{stage} … ({all_left})" if all_left else f"{stage} …")
            self._stage, self._started, self._told = stage, now, now
        if now - self._told < NOTE_EVERY_S or not done or done >= total:
            return
        self._told = now
        left_s = (now - self._started) * (total - done) / done
        left = f"about {_minutes(left_s)} left" + (f", {all_left}" if all_left else "")
        self._console.note(f"{stage}: {100 * done / total:.0f} %, {left}")


def _minutes(seconds: float) -> str:
    return f"{max(1, round(seconds / 60))} min"


def _say(text: str) -> None:
    """Print a line on stderr; where nobody takes it the work goes on: its exit code says how it went."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - stays open until exit


def _styled(label: str, stream: TextIO) -> str:
    if "NO_COLOR" in os.environ or not stream.isatty() or not obeys_escapes(stream.fileno()):
        return label
    return f"\033[{_STYLES[label]}m{label}\033[0m"
