"""What is called otherwise on Windows, as far as fakes reach: no Windows is at hand."""

import contextlib
import ctypes
import importlib.util
import os
import subprocess
import sys
import types
from ctypes import wintypes
from pathlib import Path

import pytest

from whisq import system, writing
from whisq.errors import OutputError
from whisq.writing import write_bytes


@pytest.fixture
def windows(monkeypatch):
    """The module as Windows would load it, with msvcrt's locks kept in a set of files."""
    held = {}

    def locking(descriptor, mode, n_bytes):
        assert (mode, n_bytes, os.lseek(descriptor, 0, os.SEEK_CUR)) == (2, 1, 0)
        if held.setdefault(os.fstat(descriptor).st_ino, descriptor) != descriptor:
            raise PermissionError

    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setitem(sys.modules, "msvcrt", types.SimpleNamespace(LK_NBLCK=2, locking=locking))
    spec = importlib.util.spec_from_file_location("system_of_windows", system.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.undo()
    return module


def test_both_have_the_same_names(windows):
    def public(module):
        return {name for name, value in vars(module).items() if not name.startswith("_") and callable(value)}

    assert public(windows) == public(system)
    assert windows.RENAMES_OPEN_FILES is not system.RENAMES_OPEN_FILES


@pytest.mark.parametrize("which", ["here", "windows"])
def test_files_at_an_offset(which, windows, tmp_path):
    of_system = windows if which == "windows" else system
    descriptor = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    assert of_system.write_at(descriptor, memoryview(b"cdef"), 2) == 4
    assert of_system.write_at(descriptor, memoryview(b"ab"), 0) == 2
    assert of_system.read_at(descriptor, 3, 2) == b"cde"
    assert of_system.read_at(descriptor, 9, 4) == b"ef"
    os.close(descriptor)


@pytest.mark.parametrize("which", ["here", "windows"])
def test_one_of_two_holds_a_file(which, windows, tmp_path):
    of_system = windows if which == "windows" else system
    first, second = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT) for _ in range(2))
    assert of_system.holds(first) is True
    assert of_system.holds(second) is False
    assert of_system.holds(first) is True
    os.close(first)
    os.close(second)


def test_a_processs_ctrl_c_and_quotes(windows, monkeypatch):
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
    assert windows.own_group() == {"creationflags": 512}
    assert system.own_group() == {"process_group": 0}
    for word, there, here in (
        ("model.bin", "model.bin", "model.bin"),
        ("C:\\my models\\a.bin", '"C:\\my models\\a.bin"', "'C:\\my models\\a.bin'"),
        ("whisq[demo]", '"whisq[demo]"', "'whisq[demo]'"),
    ):
        assert (windows.quoted(word), system.quoted(word)) == (there, here)


class Kernel32:
    """Windows' own library: a process that held 12345 bytes, a console on stderr and none on stdout."""

    def __init__(self, name):
        assert name == "kernel32"
        self.mode = 3
        self.GetCurrentProcess = types.SimpleNamespace()
        self.GetCurrentProcess = type("Function", (), {"__call__": lambda _: -1})()
        self.K32GetProcessMemoryInfo = type("Function", (), {"__call__": lambda _, *a: self.memory(*a)})()
        self.GetStdHandle = type("Function", (), {"__call__": lambda _, number: {-11: 1, -12: 2}[number]})()

    def memory(self, process, counters, size):
        assert (process, size) == (-1, ctypes.sizeof(wintypes.DWORD) * 2 + 8 * ctypes.sizeof(ctypes.c_size_t))
        counters._obj.peak_working_set = 12345
        return 1

    def GetConsoleMode(self, handle, mode):  # noqa: N802 - its name
        mode._obj.value = self.mode
        return int(handle.value == 2)

    def SetConsoleMode(self, handle, mode):  # noqa: N802
        assert (handle.value, mode) == (2, 7)
        return 1


def test_memory_and_colours_by_the_kernels_library(windows, monkeypatch):
    monkeypatch.setattr(ctypes, "WinDLL", Kernel32, raising=False)
    assert windows.peak_memory_bytes() == 12345
    assert windows.obeys_escapes(2)
    assert not windows.obeys_escapes(1)
    assert system.peak_memory_bytes() > 1 << 20


def test_a_line_that_comes_in_time_and_one_that_does_not():
    for code, line in (("print('ready')", b"ready\n"), ("pass", b""), ("import time; time.sleep(60)", b"")):
        with subprocess.Popen([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE) as process:
            found = system.line_within(process.stdout, 0.3 if "sleep" in code else 60)
            process.kill()
        assert found == line


@pytest.fixture
def no_open_file_moves(windows, monkeypatch):
    """Files as Windows has them: what somebody has open takes no other name, and is not removed."""
    real_replace, real_unlink = Path.replace, Path.unlink

    def refuse_open(path):
        for one in Path("/proc/self/fd").iterdir():
            if os.path.realpath(one) == str(path):
                raise PermissionError(13, "Access is denied", str(path))

    def replace(path, target):
        refuse_open(path)
        return real_replace(path, target)

    def unlink(path, missing_ok=False):
        refuse_open(path)
        return real_unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(Path, "unlink", unlink)
    for name in ("RENAMES_OPEN_FILES", "holds", "set_mode", "write_at"):
        monkeypatch.setattr(writing, name, getattr(windows, name))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no list of open files")
def test_a_file_is_whole_or_none_where_open_files_do_not_move(no_open_file_moves, tmp_path):
    target = tmp_path / "out.bin"
    (tmp_path / f".out.bin.{'0' * 12}.part").write_bytes(b"of a writer that was killed")
    write_bytes(target, b"first")
    write_bytes(target, b"second")
    assert target.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [target]

    def fail_after_another():
        with writing.whole(target) as part:
            part.write(b"half", 0)
            # A second writer of the same file leaves the first one's alone: that is open.
            write_bytes(target, b"third")
            raise OSError(28, "no space")

    with pytest.raises(OutputError, match="no space"):
        fail_after_another()
    assert target.read_bytes() == b"third"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="there is no list of open files")
def test_what_ends_the_program_takes_the_file_on_its_way_along(no_open_file_moves, tmp_path, monkeypatch):
    undoing = []
    monkeypatch.setattr(writing, "undo_at_end", lambda undo: undoing.append(undo) or 0)
    # In the program nothing comes after that.
    with contextlib.suppress(OSError), writing.whole(tmp_path / "out.bin"):
        undoing[0]()
        assert list(tmp_path.iterdir()) == []
