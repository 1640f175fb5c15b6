"""Regular expressions as users write them, matched in bounded time.

They mean what they mean to Python's ``re``, because ``re`` matches them all. It can be interrupted by nothing, so only
a pattern that is seen to be cheap runs in this process; any other runs in one of its own, which has a few seconds.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import math
import os
import re
import select
import sys
import threading
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisq.errors import RecipeError
from whisq.stopping import held, undo_at_end
from whisq.system import line_within

if TYPE_CHECKING:
    import subprocess

MOST_CHARACTERS = 20_000
MOST_SECONDS = 2.0
"""Of processor time, for one pattern on all names together; one of a real recipe takes milliseconds."""

_MOST_WAITED_S = 60.0
"""By the clock, for one answer: a busy machine may be slow to give two seconds of its time."""
_LONGEST_CHEAP = 300
_LONGEST_NAME = 70
_MOST_STEPS = 200_000
"""A few milliseconds a name, at worst."""

_PIECE = re.compile(
    r"(?P<atom>\\[dDwWsS]|\\[^\w\s]|[A-Za-z0-9_ /:=,<>@%&~;!\"'-]|\.|\[\^?[A-Za-z0-9_.-]+\])"
    r"(?P<repeat>(?:[*+?]|\{\d{1,3}(?:,\d{0,3})?\})\??)?(?![*+?{])"
    r"|(?P<open>\((?:\?:)?)(?![?*+{])|(?P<close>\))(?![*+?{])|(?P<bar>\|)(?![*+?{])"
)


@lru_cache(maxsize=4096)
def is_cheap(pattern: str) -> bool:
    """Return whether a pattern is plainly one that takes few steps on a name, however it is written.

    Nothing that is repeated may be a group, and of repeats and alternatives there may be few; lookarounds, references
    and flags are not looked into.
    """
    if len(pattern) > _LONGEST_CHEAP:
        return False
    at, repeats, ways, bars = 0, 0, 1, [1]
    while at < len(pattern):
        piece = _PIECE.match(pattern, at)
        if piece is None:
            return False
        at = piece.end()
        if piece["repeat"]:
            repeats += 1
        elif piece["open"]:
            bars.append(1)
        elif piece["bar"]:
            bars[-1] += 1
        elif piece["close"]:
            ways *= bars.pop()
            if not bars:
                return False
    return math.prod(bars) * ways * math.comb(_LONGEST_NAME + repeats, repeats) <= _MOST_STEPS


def check_pattern(pattern: str, hint: str) -> None:
    """Raise ``RecipeError`` with ``hint`` for what is not a regular expression."""
    try:
        full_matches(pattern, ())
    except _NotAPatternError as error:
        raise RecipeError(f"'{_shown(pattern)}' is not a regular expression: {error}", hint=hint) from None


def full_matches(pattern: str, names: Sequence[str]) -> list[bool]:
    """Return of each name whether the pattern matches the whole of it.

    Raises ``RecipeError`` for a pattern that takes too long, and for what is not one.
    """
    if len(pattern) > MOST_CHARACTERS:
        raise _NotAPatternError(f"it has {len(pattern)} characters, at most {MOST_CHARACTERS} are taken")
    if is_cheap(pattern):
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise _NotAPatternError(str(error)) from None
        return [compiled.fullmatch(name) is not None for name in names]
    return _MATCHER.ask(pattern, names)


class _NotAPatternError(RecipeError):
    """Says what is wrong with it."""


def _too_slow(pattern: str) -> RecipeError:
    return RecipeError(
        f"'{_shown(pattern)}' takes more than {MOST_SECONDS:g} s to be matched with names",
        hint="repeat nothing that holds a repeat: write .* instead of (.+)+",
    )


def _shown(pattern: str) -> str:
    return pattern if len(pattern) <= 80 else pattern[:79] + "…"


class _Matcher:
    """The other process, started when it is needed and again after a pattern took too long; any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._left: dict[str, float] = {}

    def ask(self, pattern: str, names: Sequence[str]) -> list[bool]:
        with self._lock:
            left = self._left.get(pattern, MOST_SECONDS)
            if left <= 0:
                raise _too_slow(pattern)
            request = {"pattern": pattern, "names": list(names), "seconds": left}
            reply = self._exchange(json.dumps(request).encode() + b"\n", left)
            if reply is None:
                self._left[pattern] = 0.0
                raise _too_slow(pattern)
            if "wrong" in reply:
                raise _NotAPatternError(str(reply["wrong"]))
            self._left[pattern] = left - float(reply["seconds"])
            return [bool(one) for one in reply["matched"]]

    def _exchange(self, line: bytes, left: float) -> dict[str, Any] | None:
        process = self._running()
        assert process.stdin is not None
        try:
            process.stdin.write(line)
            process.stdin.flush()
            answer = _line_from(process, left)
        except BrokenPipeError:
            answer = b""
        except BaseException:
            self.stop()
            raise
        if not answer:
            self.stop()
            return None
        reply: dict[str, Any] = json.loads(answer)
        return reply

    def _running(self) -> subprocess.Popen[bytes]:
        # After a fork the pipes would be shared with the parent.
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            import subprocess

            script = str(Path(__file__).with_name("pattern_process.py"))
            with held:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", "-S", script],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                )
                undo_at_end(self._process.kill)
            self._owner = os.getpid()
            if _line_from(self._process, _MOST_WAITED_S).rstrip() != b"ready":
                raise RecipeError("the process that matches patterns does not start", hint=f"run {script} to see why")
        return self._process

    def stop(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _line_from(process: subprocess.Popen[bytes], seconds: float) -> bytes:
    """Return the next line, empty where none comes in time; ``seconds`` are its own, of processor time if possible."""
    assert process.stdout is not None
    if sys.platform == "win32":
        return line_within(process.stdout, seconds)
    descriptor, found = process.stdout.fileno(), b""
    until = time.monotonic() + _MOST_WAITED_S
    while not found.endswith(b"\n"):
        ready, _, _ = select.select([descriptor], [], [], max(0.0, until - time.monotonic()))
        part = os.read(descriptor, 1 << 16) if ready else b""
        if not part:
            return b""
        found += part
    return found


_MATCHER = _Matcher()
atexit.register(_MATCHER.stop)
