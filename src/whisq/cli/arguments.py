"""Arguments that several commands have."""

from __future__ import annotations

import argparse


def count(text: str) -> int:
    """Return a number of at least 1, as argparse wants it."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def thread_count(text: str) -> int:
    """Return a number of threads, as argparse wants it."""
    if not text.isdecimal() or not 1 <= int(text) <= 1024:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of threads from 1 to 1024")
    return int(text)


def add_clips(group: argparse._ArgumentGroup, *, what: str, seed_of: str, required: bool = True) -> None:
    """Declare ``--data`` and what chooses and reads its clips."""
    group.add_argument("--data", metavar="CLIPS", required=required, help=what)
    group.add_argument("--limit", type=count, metavar="N", help="use N clips, drawn at random")
    group.add_argument("--seed", type=int, default=0, metavar="N", help=f"seed {seed_of} (default: 0)")
    group.add_argument(
        "--language", metavar="CODE", help="take clips whose data names no language as CODE (default: en)"
    )
    group.add_argument("--skip-bad", action="store_true", help="skip unusable clips, and list them")
