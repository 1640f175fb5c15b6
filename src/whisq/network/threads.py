"""Who owns the threads while a network runs in numpy: whisq shares the work out, and BLAS computes on one each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from whisq.kernels.threads import available_cpus, blas_on_one_thread


class Threads:
    """``count`` threads, by default one for each CPU. Work is shared out among them only within ``owned``."""

    def __init__(self, count: int | None = None) -> None:
        self.count = count or available_cpus()
        self._pool: ThreadPoolExecutor | None = None

    @contextmanager
    def owned(self) -> Iterator[None]:
        """Return a context in which BLAS computes on one thread, and ``run`` on all of these."""
        if self._pool is not None:
            yield
            return
        # It has a BLAS of its own, which is limited only if it is there by then.
        import scipy.linalg  # noqa: F401

        with blas_on_one_thread(), ThreadPoolExecutor(self.count) as pool:
            self._pool = pool
            try:
                yield
            finally:
                self._pool = None

    def run(self, work: Callable[[slice], None], size: int, cost: int) -> None:
        """Call ``work`` on ranges that cover ``size``, in all threads where ``cost`` values are worth waking them.

        The ranges are the same for any number of threads, so that what is computed is, too.
        """
        if self._pool is None or size < _RANGES or cost < _WORTH_WAKING:
            work(slice(0, size))
            return
        edges = [size * part // _RANGES for part in range(_RANGES + 1)]
        ranges = map(slice, edges[:-1], edges[1:])
        if self.count == 1:
            for one in ranges:
                work(one)
        else:
            list(self._pool.map(work, ranges))

    def each(self, work: Callable[[int], None], numbers: Sequence[int]) -> None:
        """Call ``work`` on every number, in all threads where they are owned."""
        if self._pool is None or self.count == 1:
            for number in numbers:
                work(number)
            return
        list(self._pool.map(work, numbers))


_RANGES = 8
"""Ranges that work is cut into: as many as the cores of a laptop, and each still long enough for BLAS."""
_WORTH_WAKING = 1 << 18
"""Values of an element-wise operation: 0.3 ms of it. Handing eight ranges over to threads and back costs as much as
0.2 ms of work, and a decoder's lines of text take thousands of such operations."""
