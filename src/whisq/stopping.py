"""How a signal ends the program: one line, exit code 128 + its number, and nothing left behind.

What must not outlive the program is told here as it is made (``undo_at_end``): files on their way, scratch folders,
processes. A signal's handler undoes all of it and leaves at once. It raises nothing: an exception that comes at any
moment gets lost in callbacks, is taken for another error by libraries, and skips the cleaning up that it interrupts.

Only the program handles signals (``handle_signals``, from ``whisq.__main__``). Elsewhere Ctrl-C is Python's own, and
what is told here is undone by whoever told it.

Imports next to nothing: until ``handle_signals`` was called a signal ends the program in Python's way.
"""

from __future__ import annotations

import _thread
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_NAMES = {1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 15: "SIGTERM"}
"""The signals that end the program, as POSIX numbers them; `signal` itself takes milliseconds to import."""
if sys.platform == "win32":
    _NAMES = {2: "SIGINT", 15: "SIGTERM", 21: "SIGBREAK"}
_PATIENCE_S = 1.0
"""How long native code may keep Python from handling a signal, before another thread does."""
_ERASE_BAR = b"\r\033[K\033[?25h" if sys.platform != "win32" else b"\r\n"
"""Clears the line that a progress bar stands in, and shows the cursor that it hides."""

_lock = _thread.RLock()
_undo: dict[int, Callable[[], object]] = {}


class _State:
    """What the handler needs to know; one for the process."""

    owner = 0
    pending = 0
    ending = False
    n_written = 0
    resumes = False
    last_key = 0


class _Held:
    def __enter__(self) -> None:
        _lock.acquire()
        _State.owner = _thread.get_ident()

    def __exit__(self, *_: object) -> None:
        _State.owner = 0
        _lock.release()
        if _State.pending:
            _end(_State.pending)


held = _Held()
"""``with held:`` keeps signals waiting, for steps that must not come apart: few, and none within another's."""


def undo_at_end(undo: Callable[[], object]) -> int:
    """Have ``undo`` called where a signal ends the program, until ``undone``; in one ``with held`` with the making."""
    _State.last_key += 1
    _undo[_State.last_key] = undo
    return _State.last_key


def undone(key: int) -> None:
    """Forget what ``undo_at_end`` returned this key for."""
    _undo.pop(key, None)


def wrote_a_file() -> None:
    """Count a file that has its name now: the last line must not say that there is none."""
    _State.n_written += 1


def begin(*, resumes: bool = False) -> None:
    """Start a command; ``resumes`` says whether the same one again would use what this one has kept by then."""
    _State.n_written, _State.resumes = 0, resumes


def last_line(number: int = 2) -> str:
    """Return what is said of a command that a signal ended."""
    why = "interrupted" if number == 2 else f"ended by {_NAMES[number]}"
    if _State.resumes:
        return f"{why}: the same command resumes it"
    if _State.n_written:
        files = "one file" if _State.n_written == 1 else f"{_State.n_written} files"
        return f"{why}: {files} had been written, whole, and nothing else was kept"
    return f"{why}: nothing was kept"


def handle_signals() -> None:
    """End at SIGHUP, SIGINT, SIGQUIT and SIGTERM, but for those that whoever started the program has ignored."""
    import _signal  # type: ignore[import-not-found]  # builtin; typeshed lacks it

    reads, writes = os.pipe()
    if sys.platform != "win32":
        os.set_blocking(writes, False)
    for number in _NAMES:
        if _signal.getsignal(number) != _signal.SIG_IGN:
            _signal.signal(number, _handle)
    _signal.set_wakeup_fd(writes, warn_on_full_buffer=False)
    _thread.start_new_thread(_watch, (reads,))
    if sys.platform != "win32":
        os.register_at_fork(after_in_child=_let_go)


def ignore_signals() -> None:
    """Let the program come to its own end: all is done, and Python takes handlers away before it has ended."""
    import _signal

    for number in _NAMES:
        _signal.signal(number, _signal.SIG_IGN)


def _let_go() -> None:
    """Leave a child that was forked to its own end: what was told here is its parent's."""
    import _signal

    _undo.clear()
    _signal.set_wakeup_fd(-1)
    for number in _NAMES:
        if _signal.getsignal(number) is _handle:
            _signal.signal(number, _signal.SIG_DFL)


def _handle(number: int, _: object) -> None:
    """Run in the main thread, between two steps of whatever it was doing."""
    if _State.owner == _thread.get_ident():
        _State.pending = number
    else:
        _end(number)


def _watch(reads: int) -> None:
    while (number := os.read(reads, 1)[0]) not in _NAMES:
        pass
    import time

    time.sleep(_PATIENCE_S)
    _end(number)


def _end(number: int) -> None:
    # Never given back: threads that would make something more wait here for the end.
    _lock.acquire()
    if _State.ending:
        return
    _State.ending = True
    for undo in list(_undo.values()):
        try:
            undo()
        except Exception:
            continue
    try:
        start = _ERASE_BAR if os.isatty(2) else b""
        os.write(2, start + f"{last_line(number)}\n".encode())
    finally:
        # Not sys.exit: nothing that other code has registered may delay it.
        os._exit(128 + number)
