"""Where output goes: data on stdout, everything else on stderr, progress only on a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TextIO

from whisq.errors import WhisqError

_STYLES = {"error": "1;31", "warning": "1;33", "hint": "1;36"}


class Console:
    """The streams of one command. ``quiet`` drops data and notes, never warnings and errors."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self._stdout_is_gone = False

    def data(self, text: str = "") -> None:
        """Print a line of the command's result on stdout."""
        if self.quiet or self._stdout_is_gone:
            return
        try:
            print(text, flush=False)
        except BrokenPipeError:
            # `whisq quantize … | head` must still finish its file.
            self._stdout_is_gone = True
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - stays open until exit

    def note(self, text: str) -> None:
        """Print a remark on stderr."""
        if not self.quiet:
            self._flush_data()
            print(text, file=sys.stderr)

    def warn(self, message: str, hint: str | None = None) -> None:
        """Print a warning on stderr."""
        self._labelled("warning", message, hint)

    def error(self, error: WhisqError) -> None:
        """Print an error and its hint on stderr."""
        self._labelled("error", str(error), error.hint)

    def _labelled(self, label: str, message: str, hint: str | None) -> None:
        self._flush_data()
        print(f"{_styled(label, sys.stderr)}: {message}", file=sys.stderr)
        if hint:
            print(f"{_styled('hint', sys.stderr)}: {hint}", file=sys.stderr)

    def _flush_data(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.flush()

    @contextlib.contextmanager
    def progress(self, total: int, label: str) -> Iterator[Callable[[int], None]]:
        """Show a bar with time left on stderr if that is a terminal; give what advances it."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda amount: None
            return
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

        self._flush_data()
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=RichConsole(stderr=True), transient=True) as bar:
            task = bar.add_task(label, total=total)
            yield lambda amount: bar.advance(task, amount)


def _styled(label: str, stream: TextIO) -> str:
    if "NO_COLOR" in os.environ or not stream.isatty():
        return label
    return f"\033[{_STYLES[label]}m{label}\033[0m"


def megabytes(size_bytes: int) -> float:
    """Return bytes as MB: 10⁶ bytes, as people see them in a listing of files."""
    return size_bytes / 1e6
