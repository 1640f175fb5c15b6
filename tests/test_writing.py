"""A whole file or none, whatever the system refuses and whichever command writes."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.full_disk import refusing
from whisq.errors import OutputError
from whisq.writing import check_writable, scratch_folder, text_with, whole, write_bytes, write_text

OLD = "what stood there before\n"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that is there already, in a folder of its own."""
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "file.txt"
    path.write_text(OLD)
    return path


def only(path: Path) -> bool:
    """Return whether a file is alone in its folder: nothing is left of one on its way."""
    return list(path.parent.iterdir()) == [path]


def test_what_is_written_takes_the_place_of_what_was(old: Path) -> None:
    write_text(old, "größer\n")
    assert old.read_bytes() == "größer\n".encode()
    write_bytes(old, b"")
    assert old.read_bytes() == b""
    assert only(old)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_inside_leaves_the_old_file_and_nothing_else(old: Path, error: type[BaseException]) -> None:
    def interrupted() -> None:
        with whole(old) as part:
            part.write(b"half", 0)
            assert part.path.read_bytes() == b"half"
            raise error

    with pytest.raises(error):
        interrupted()
    assert old.read_text() == OLD
    assert only(old)


def test_what_the_system_refuses_inside_is_an_output_error_with_the_hint(old: Path) -> None:
    with pytest.raises(OutputError, match=r"file\.txt: cannot be written: too large") as caught, whole(old, hint="try"):
        raise OSError(errno.EFBIG, "too large")
    assert caught.value.hint == "try"
    assert old.read_text() == OLD
    assert only(old)


@pytest.mark.parametrize("call", ["fsync", "pwrite"])
def test_a_disk_that_is_full_leaves_the_old_file(old: Path, monkeypatch, call: str) -> None:
    refusing(monkeypatch, call, old)
    with pytest.raises(OutputError, match=r"file\.txt: cannot be written: No space left") as caught:
        write_bytes(old, b"new", hint="try")
    assert caught.value.hint == ("try" if call == "fsync" else "free some space, or write to another disk")
    assert old.read_text() == OLD
    assert only(old)


def test_a_folder_that_cannot_be_synced_is_no_error(old: Path, monkeypatch) -> None:
    real = os.fsync

    def fsync(descriptor: int) -> None:
        if os.path.samestat(os.fstat(descriptor), old.parent.stat()):
            raise OSError(errno.EINVAL, "not here")
        real(descriptor)

    monkeypatch.setattr("os.fsync", fsync)
    write_bytes(old, b"new")
    assert old.read_bytes() == b"new"


def test_short_writes_go_on_where_they_stopped(old: Path, monkeypatch) -> None:
    content, real = os.urandom(1000), os.pwrite
    monkeypatch.setattr("os.pwrite", lambda descriptor, data, offset: real(descriptor, data[:7], offset))
    write_bytes(old, content)
    assert old.read_bytes() == content


def test_what_was_not_written_is_zero(old: Path) -> None:
    with whole(old) as part:
        part.write(b"end", 5)
        part.truncate(10)
    assert old.read_bytes() == bytes(5) + b"end" + bytes(2)


def test_a_symbolic_link_is_followed(old: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.txt"
    link.symlink_to(old)
    write_text(link, "new\n")
    assert link.is_symlink()
    assert old.read_text() == "new\n"
    assert only(old)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_an_existing_files_mode_is_kept(old: Path, mode: int) -> None:
    old.chmod(mode)
    write_text(old, "new\n")
    assert old.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "new.txt", "new\n")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "new.txt").stat().st_mode & 0o777 == mode


def test_a_folder_that_may_not_be_written_in(old: Path, monkeypatch) -> None:
    real = os.open

    # Not by the folder's mode: root may write everywhere.
    def refuse(path: object, flags: int, *more: int) -> int:
        if flags & os.O_CREAT:
            raise PermissionError(errno.EACCES, "Permission denied")
        return real(path, flags, *more)

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(OutputError, match=r"file\.txt: cannot be written: Permission denied") as caught:
        write_text(old, "new\n", hint="try")
    monkeypatch.undo()
    assert caught.value.hint == "try"
    assert old.read_text() == OLD
    assert only(old)


# --- Writers that were killed, and writers that live.


KILLED = """
import os, sys
from whisq.writing import whole
with whole(sys.argv[1]) as part:
    part.write(b"half", 0)
    print(part.path.name, flush=True)
    sys.stdin.read()
"""


def beginning_to_write(path: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", KILLED, str(path)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def test_what_a_killed_writer_left_goes_with_the_next_writer_of_that_file_and_no_other(old: Path) -> None:
    for path in (old, old.with_name("other.txt")):
        with beginning_to_write(path) as process:
            process.kill()
    foreign = [old.with_name(name) for name in (".file.txt.part", ".file.txt.0123.part", ".file.txt.zzzzzzzzzzzz.part")]
    for path in foreign:
        path.touch()
    assert len(list(old.parent.glob(".*.part"))) == 5
    write_text(old, "new")
    left = {path.name for path in old.parent.iterdir()}
    assert {path.name for path in (old, *foreign)} < left
    (other,) = left - {path.name for path in (old, *foreign)}
    assert other.startswith(".other.txt.")


def test_a_writer_that_lives_is_left_alone(old: Path) -> None:
    with beginning_to_write(old) as process:
        write_text(old, "mine")
        assert len(list(old.parent.glob(".*.part"))) == 1
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(60) == 0
    assert old.read_bytes() == b"half"
    assert only(old)


def test_two_writers_in_one_process_are_two(old: Path) -> None:
    with whole(old) as first, whole(old) as second:
        first.write(b"first", 0)
        second.write(b"second", 0)
    assert old.read_bytes() == b"first"
    assert only(old)


def test_a_writer_whose_part_was_taken_for_an_orphan_begins_another(old: Path, monkeypatch) -> None:
    real, taken = fcntl.flock, []

    def late(descriptor: int, how: int) -> None:
        if not taken:
            (part,) = old.parent.glob(".*.part")
            part.unlink()
            taken.append(part)
        real(descriptor, how)

    monkeypatch.setattr("fcntl.flock", late)
    write_text(old, "new")
    assert taken
    assert old.read_text() == "new"
    assert only(old)


def test_where_there_are_no_locks_nothing_is_taken_for_an_orphan(old: Path, monkeypatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with beginning_to_write(old) as process:
        process.kill()
    monkeypatch.setattr("fcntl.flock", refuse)
    write_text(old, "new")
    assert old.read_text() == "new"
    assert len(list(old.parent.glob(".*.part"))) == 1


# --- What is not a file.


@pytest.fixture
def streams(tmp_path: Path) -> dict[str, Path]:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("/dev/stdout")
    (tmp_path / "round").symlink_to("round")
    names = {name: tmp_path / name for name in ("fifo", "link", "round")}
    return names | {name: Path(name) for name in ("/dev/stdout", "/dev/null", "/dev/fd/1", "/dev/../dev/stderr")}


NO_FILES = ["fifo", "link", "round", "/dev/stdout", "/dev/null", "/dev/fd/1", "/dev/../dev/stderr"]


@pytest.mark.parametrize("name", NO_FILES)
def test_a_stream_is_refused(streams: dict[str, Path], name: str) -> None:
    said = "cannot be written" if name == "round" else "is not a regular file"
    with pytest.raises(OutputError, match=said):
        write_text(streams[name], "new")
    with pytest.raises(OutputError, match=said):
        check_writable(streams[name])


def test_standard_output_is_refused_also_where_it_is_a_file(tmp_path: Path) -> None:
    code = "import sys; from whisq.writing import write_text; print('plan', flush=True); write_text('/dev/stdout', 'x')"
    with (tmp_path / "out").open("wb") as out:
        done = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.PIPE, text=True, check=False)
    assert "is not a regular file" in done.stderr
    assert (tmp_path / "out").read_text() == "plan\n"


def test_what_goes_with_a_file_has_its_name_after_it_and_only_then(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    with text_with(second, "beside"):
        assert not second.exists()
        write_text(first, "main")
    assert second.read_text() == "beside"
    with pytest.raises(ZeroDivisionError), text_with(second, "again"):
        raise ZeroDivisionError
    assert second.read_text() == "beside"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second"]


def test_a_scratch_folder_goes_with_all_that_is_in_it() -> None:
    with scratch_folder() as folder:
        (folder / "large").touch()
    assert not folder.exists()


def test_a_file_is_on_the_disk_before_it_takes_its_name_and_the_name_after(tmp_path, monkeypatch):
    target = tmp_path / "out.json"
    synced: list[tuple[int, bool]] = []

    def note(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_ino, target.exists()))

    monkeypatch.setattr("os.fsync", note)
    write_text(target, "{}")
    assert synced == [(target.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def test_a_new_files_mode_is_the_users(tmp_path):
    mask = os.umask(0o027)
    try:
        write_text(tmp_path / "out.json", "{}")
    finally:
        os.umask(mask)
    assert (tmp_path / "out.json").stat().st_mode & 0o777 == 0o640
