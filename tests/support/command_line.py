"""The command line as people type it, in this process or in one of its own."""

from __future__ import annotations

import sys

import pytest

from whisq.cli import main


def run(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Run ``whisq`` with these words; return its exit code and what went to stdout and stderr."""
    try:
        code = main([str(word) for word in words])
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def command(*words: object) -> list[str]:
    """Return the words that run ``whisq`` in a process of its own."""
    return [sys.executable, "-c", "import sys; from whisq.cli import main; sys.exit(main())", *map(str, words)]
