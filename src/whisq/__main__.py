"""The program: ``whisq``, ``quantize`` and ``python -m whisq``. Signals are handled before all else is imported."""

from __future__ import annotations

from whisq.stopping import handle_signals, ignore_signals

handle_signals()


def whisq() -> int:
    """Run ``whisq``; returns the exit code."""
    from whisq.cli import main

    try:
        return main()
    finally:
        ignore_signals()


def quantize() -> int:
    """Run the plain ``quantize``; returns the exit code."""
    from whisq.cli import quantize_main

    try:
        return quantize_main()
    finally:
        ignore_signals()


if __name__ == "__main__":
    raise SystemExit(whisq())
