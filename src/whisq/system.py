"""What is called otherwise on Windows: files at an offset, locks, renames, processes, memory, colours, quotes.

``sys.platform`` decides, as type checkers do. What is for Windows was written by its documentation and is tested with
fakes; no machine at hand could run it.
"""

from __future__ import annotations

import os
import sys
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

READING = (
    os.O_RDONLY
    # Nothing is waited for, and no process inherits it; on Windows a descriptor is a text file's unless it is told.
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
"""Flags of ``os.open`` for a file that is read."""

if sys.platform == "win32":
    import msvcrt

    _seeking = threading.Lock()

    def read_at(descriptor: int, size_bytes: int, offset: int) -> bytes:
        """Return at most so many bytes from an offset on."""
        with _seeking:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.read(descriptor, size_bytes)

    def write_at(descriptor: int, data: memoryview, offset: int) -> int:
        """Write bytes at an offset; returns how many were taken."""
        with _seeking:
            os.lseek(descriptor, offset, os.SEEK_SET)
            return os.write(descriptor, data)

    def holds(descriptor: int) -> bool | None:
        """Return whether whoever opened a file holds it now; None where there are no locks."""
        try:
            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        except OSError:
            return None
        return True

    def process_holds(descriptor: int) -> bool | None:
        """Return the same: there are no locks of a process."""
        return holds(descriptor)

    def set_mode(descriptor: int, mode: int) -> None:
        """Do nothing: who may do what is the folder's to say."""

    def peak_memory_bytes() -> int:
        """Return the most memory this process has held, 0 where the system does not tell."""
        import ctypes
        from ctypes import wintypes

        class Counters(ctypes.Structure):
            _fields_ = [
                ("size", wintypes.DWORD),
                ("page_faults", wintypes.DWORD),
                *[(name, ctypes.c_size_t) for name in ("peak_working_set", *"abcdefg")],
            ]

        counters = Counters(size=ctypes.sizeof(Counters))
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetCurrentProcess.restype = wintypes.HANDLE
        kernel.K32GetProcessMemoryInfo.argtypes = [wintypes.HANDLE, ctypes.c_void_p, wintypes.DWORD]
        taken = kernel.K32GetProcessMemoryInfo(kernel.GetCurrentProcess(), ctypes.byref(counters), counters.size)
        return int(counters.peak_working_set) if taken else 0

    def obeys_escapes(stream: int) -> bool:
        """Return whether a console, by its descriptor (1 or 2), takes escapes for colours: it is told to."""
        import ctypes

        obey = 0x0004  # ENABLE_VIRTUAL_TERMINAL_PROCESSING
        kernel = ctypes.WinDLL("kernel32")
        kernel.GetStdHandle.restype = ctypes.c_void_p
        handle, mode = ctypes.c_void_p(kernel.GetStdHandle(-10 - stream)), ctypes.c_ulong()
        return bool(
            kernel.GetConsoleMode(handle, ctypes.byref(mode)) and kernel.SetConsoleMode(handle, mode.value | obey)
        )

    def own_group() -> dict[str, Any]:
        """Return what ``Popen`` is given so that a console's Ctrl-C does not reach the process."""
        import subprocess

        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}

    def quoted(word: str) -> str:
        """Return a word as the console takes it."""
        import subprocess

        return subprocess.list2cmdline([word]) if not set(word) & set("&|<>^%()[]") else f'"{word}"'

else:
    import fcntl

    def read_at(descriptor: int, size_bytes: int, offset: int) -> bytes:
        """Return at most so many bytes from an offset on."""
        return os.pread(descriptor, size_bytes, offset)

    def write_at(descriptor: int, data: memoryview, offset: int) -> int:
        """Write bytes at an offset; returns how many were taken."""
        return os.pwrite(descriptor, data, offset)

    def holds(descriptor: int) -> bool | None:
        """Return whether whoever opened a file holds it now; None where there are no locks."""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return None
        return True

    def process_holds(descriptor: int) -> bool | None:
        """Return whether this process, by whatever descriptor, holds a file now; None where there are no locks."""
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        except OSError:
            return None
        return True

    def set_mode(descriptor: int, mode: int) -> None:
        """Give a file the mode of the one whose place it takes."""
        os.fchmod(descriptor, mode)

    def peak_memory_bytes() -> int:
        """Return the most memory this process has held; pages of mapped files that were touched are in it."""
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def obeys_escapes(stream: int) -> bool:
        """Return whether a terminal, by its descriptor, takes escapes for colours."""
        return True

    def own_group() -> dict[str, Any]:
        """Return what ``Popen`` is given so that a terminal's Ctrl-C does not reach the process."""
        return {"process_group": 0}

    def quoted(word: str) -> str:
        """Return a word as the shell takes it."""
        import shlex

        return shlex.quote(word)


RENAMES_OPEN_FILES = sys.platform != "win32"
"""Whether a file takes a name, and is removed, while somebody has it open."""


def line_within(stream: IO[bytes], seconds: float) -> bytes:
    """Return the next line of a process's output, empty where it ends or none comes in time.

    For systems that cannot wait for a pipe: then a thread waits, until the process is ended.
    """
    found: list[bytes] = []
    read: Callable[[], None] = lambda: found.append(stream.readline())  # noqa: E731 - one line for a thread
    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(seconds)
    return found[0] if found else b""
