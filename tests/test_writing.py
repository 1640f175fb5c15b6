"""A whole file or none, whatever the system refuses and whichever command writes."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.calibrations import write as write_calibration
from tests.support.containers import write_model
from tests.support.evaluations import made_curve, made_evaluation
from tests.support.models import WIDE
from whisq import open_model
from whisq.cli import main
from whisq.errors import OutputError
from whisq.evaluation import to_json
from whisq.search import Sensitivity, Space
from whisq.writing import whole, write_bytes, write_text

OLD = "what stood there before\n"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A file that is there already, in a folder of its own."""
    (tmp_path / "folder").mkdir()
    path = tmp_path / "folder" / "file.txt"
    path.write_text(OLD)
    return path


def refusing(monkeypatch: pytest.MonkeyPatch, call: str, target: Path, number: int = errno.ENOSPC) -> None:
    """Have ``os.fsync`` or ``os.pwrite`` refuse, where they are called for what is to become ``target``."""
    real = getattr(os, call)

    def refuse(descriptor: int, *arguments: object) -> object:
        parts = target.parent.glob(f".{target.name}.*.part")
        if os.fstat(descriptor).st_ino in {part.stat().st_ino for part in parts}:
            raise OSError(number, os.strerror(number))
        return real(descriptor, *arguments)

    monkeypatch.setattr(f"os.{call}", refuse)


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


# --- The commands. Each is given a folder, and says with which words it writes the file of a name in there.


def quantizing(*more: str) -> Callable[[Path, pytest.MonkeyPatch], list[str]]:
    def words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        source = write_model(folder / "source.bin", WIDE)
        return ["quantize", str(source), str(folder / "out.bin"), "q4_0", *(word.format(folder) for word in more)]

    return words


def converting(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return ["convert", str(write_model(folder / "source.bin", WIDE)), str(folder / "out.gguf")]


def merging(*more: str) -> Callable[[Path, pytest.MonkeyPatch], list[str]]:
    def words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        source = write_model(folder / "source.bin", WIDE)
        for seed, name in enumerate("ab"):
            write_calibration(folder / f"{name}.calib", seed=seed)
        merged = ["--merge", str(folder / "a.calib"), "--merge", str(folder / "b.calib")]
        return ["calibrate", str(source), *merged, "-o", str(folder / "out.calib"), *(w.format(folder) for w in more)]

    return words


def evaluating(*more: str) -> Callable[[Path, pytest.MonkeyPatch], list[str]]:
    def words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        monkeypatch.setattr("whisq.evaluation.run.evaluate", lambda *_, **__: made_evaluation())
        return [
            "evaluate",
            "reference.bin",
            "candidate.bin",
            "--data",
            "clips",
            *(word.format(folder) for word in more),
        ]

    return words


def reporting(name: str) -> Callable[[Path, pytest.MonkeyPatch], list[str]]:
    def words(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        (folder / "in.json").write_text(to_json(made_evaluation()), "utf-8")
        return ["report", str(folder / "in.json"), str(folder / name)]

    return words


def searching(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    source = write_model(folder / "source.bin", WIDE)
    write_calibration(folder / "a.calib")
    with open_model(source) as model:
        space = Space.of(model, ("q4_0", "q8_0"), "transcribe.cpp", (), ())
        harms = {name: {kind.name: 1 / kind.bits_per_weight for kind in kinds} for name, kinds in space.types.items()}
    measured = {name: tuple(found) for name, found in harms.items()}
    known = Sensitivity(harms, 1.0, 1.0, (), {"how": "one"}, measured, curve=made_curve())
    monkeypatch.setattr("whisq.search.measure_space", lambda *_, **__: (known, None))
    words = ["search", str(source), "--calibration", str(folder / "a.calib"), "--types", "q4_0,q8_0", "--bits", "12"]
    return [*words, "-o", str(folder / "out.toml"), "--sensitivity", str(folder / "out.json")]


WRITERS = [
    ("out.bin", quantizing()),
    ("out.bin.json", quantizing("--sidecar")),
    ("recipe.toml", quantizing("--recipe-out", "{}/recipe.toml")),
    ("out.gguf", converting),
    ("out.calib", merging()),
    ("results.json", evaluating("--json", "{}/results.json")),
    ("report.html", evaluating("--report", "{}/report.html")),
    ("tables.md", reporting("tables.md")),
    ("page.html", reporting("page.html")),
    ("out.toml", searching),
    ("out.json", searching),
]


# Of an imatrix the gguf package writes the bytes, not by pwrite.
CASES = [(name, words, call) for name, words in WRITERS for call in ("fsync", "pwrite")]
CASES.append(("out.imatrix", merging("--imatrix-out", "{}/out.imatrix"), "fsync"))


@pytest.mark.parametrize(("name", "words", "call"), CASES, ids=[f"{name}-{call}" for name, _, call in CASES])
def test_a_command_that_cannot_write_leaves_the_old_file(
    tmp_path: Path, capsys, monkeypatch, name: str, words: Callable[[Path, pytest.MonkeyPatch], list[str]], call: str
) -> None:
    path = tmp_path / name
    path.write_text(OLD)
    asked = words(tmp_path, monkeypatch)
    with monkeypatch.context() as refused:
        refusing(refused, call, path)
        assert main(asked) == 1
    said = capsys.readouterr().err
    assert f"{name}: cannot be written: No space left" in said
    assert "hint: " in said
    assert path.read_text() == OLD
    assert not list(tmp_path.glob(".*.part"))
    # The refusal was all that stood against it.
    assert main(asked) == 0
    assert path.read_bytes() != OLD.encode()


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
