"""Sync a file while it is written, so that the sync at the end finds little to do."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Sequence

SYNC_EVERY_BYTES = 32 << 20


class BackgroundSync:
    """Sends what is written to the disk all along, from a thread of its own: a context manager.

    Leaving it waits for that thread, and raises the ``OSError`` of a sync that failed, since the final one would not
    report it again.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._written = 0
        self._error: OSError | None = None
        self._wake = threading.Semaphore(0)
        self._done = False
        self._thread = threading.Thread(target=self._sync, name="whisq-sync", daemon=True)

    def __enter__(self) -> BackgroundSync:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._done = True
        self._wake.release()
        join_all([self._thread])
        if self._error is not None and kind is None:
            raise self._error

    def wrote(self, n_bytes: int) -> None:
        """Count what was written, from any thread; a count lost between two threads does no harm."""
        before, self._written = self._written, self._written + n_bytes
        if before // SYNC_EVERY_BYTES != self._written // SYNC_EVERY_BYTES:
            self._wake.release()

    def _sync(self) -> None:
        while self._wake.acquire() and not self._done:
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                # fsync reports an error once; the final sync would miss it.
                self._error = self._error or error


def join_all(threads: Sequence[threading.Thread]) -> None:
    """Wait for threads whatever comes: they write to a descriptor that is closed afterwards."""
    while any(thread.is_alive() for thread in threads):
        with contextlib.suppress(KeyboardInterrupt):
            for thread in threads:
                if thread.is_alive():
                    thread.join()
