"""A disk that is full, and ``ulimit -f``, for every command that writes: exit 1, and the old file whole."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from tests.campaign.running import parts_in, random_words, start, write_real_sources, wrong_output

_SMALL_BYTES = 1 << 14
_DISK_BYTES = 1 << 20


def tries(random: Random, folder: Path) -> Iterator[str | None]:
    """Limit what a command may write: on a disk of a megabyte where one can be mounted, else by a file's size."""
    write_real_sources(folder)
    disk = folder / "out"
    disk.mkdir()
    mounted = _mount(disk)
    try:
        for number in range(200):
            words, output = random_words(random, folder)
            before = output.read_bytes() if output.exists() else None
            limit = None if mounted and number % 2 else random.randrange(_SMALL_BYTES)
            process = start(words, f"{folder.name}-{number}", preexec_fn=_limiting(limit))
            try:
                _, said = process.communicate(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                for part in parts_in(folder):
                    part.unlink()
                continue  # still at work: it was not writing
            wrong = wrong_output(output, before)
            if process.returncode not in (0, 1) or "Traceback" in said:
                wrong = wrong or f"exit {process.returncode}: {said}"
            if parts_in(folder):
                wrong = wrong or f"left {parts_in(folder)}"
            yield wrong and f"{' '.join(words)} with {limit} bytes: {wrong}"
    finally:
        if mounted:
            subprocess.run(["umount", str(disk)], check=False)


def _mount(disk: Path) -> bool:
    words = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(disk)]
    try:
        return subprocess.run(words, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _limiting(limit_bytes: int | None) -> Callable[[], None] | None:
    if limit_bytes is None:
        return None
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))
