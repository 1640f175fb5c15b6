"""How many threads there are to work in, and rows of a matrix split among them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from whisq.errors import KernelError

if TYPE_CHECKING:
    from collections.abc import Callable


def available_cpus() -> int:
    """Return how many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def blas_on_one_thread() -> Iterator[None]:
    """Return a context in which numpy's products stay on the thread that asks for them, for work that is shared out.

    BLAS's own threads would spin beside those.
    """
    # Looks for libraries that are loaded: numpy must be among them by then.
    import numpy  # noqa: F401
    from threadpoolctl import ThreadpoolController

    with ThreadpoolController().limit(limits=1, user_api="blas"):
        yield


def over_rows(work: Callable[[int, int], None], rows: int, threads: int) -> None:
    """Call ``work(start, stop)`` on ranges that cover all rows, in several threads; ``stop`` may equal ``start``.

    Raises ``KernelError`` for fewer than one thread, and what ``work`` raises.
    """
    if threads < 1:
        raise KernelError(f"threads is {threads}, expected at least 1")
    parts = min(threads, rows)
    if parts <= 1:
        work(0, rows)
        return
    from concurrent.futures import ThreadPoolExecutor

    edges = [rows * part // parts for part in range(parts + 1)]
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(work, edges[:-1], edges[1:]))
