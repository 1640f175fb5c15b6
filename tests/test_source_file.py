"""A source that changes while it is read: an error, whatever it changes into, and never the end of the process."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.calibrations import write as write_calibration
from tests.support.containers import WRITERS, write_model
from tests.support.models import WIDE, tiny_weights
from whisq import Recipe, compare, make_plan, open_model, quantize
from whisq.calibration import read_calibration
from whisq.cli import main
from whisq.errors import CalibrationError, FormatError
from whisq.evaluation.model_files import describe
from whisq.source_file import SourceFile
from whisq.types import parse_type


def weights_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.suffix in (".bin", ".gguf", ".pt", ".safetensors")]


@pytest.mark.parametrize("container", WRITERS)
def test_a_source_cut_short_while_it_is_read_is_an_error(tmp_path: Path, container: str) -> None:
    with open_model(WRITERS[container](tmp_path, tiny_weights())) as model:
        for tensor in model.tensors:
            model.array(tensor)
        for path in weights_in(tmp_path):
            os.truncate(path, 1000)
        with pytest.raises(FormatError, match="changed while it was read: 1000 bytes are left"):
            all(model.array(tensor).any() is not None for tensor in model.tensors)
        with pytest.raises(FormatError, match="changed while it was read"):
            _ = model.sha256
        with pytest.raises(FormatError, match="changed while it was read"):
            model.check_unchanged()


def longer(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"more")


def written(path: Path) -> None:
    content = path.read_bytes()
    state = path.stat()
    path.write_bytes(content[:-4] + b"\0\0\0\0")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))


def replaced(path: Path) -> None:
    state = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    other.replace(path)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


CHANGES = [longer, written, replaced, cut, Path.unlink]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("command", ["quantize", "convert"])
def test_nothing_is_put_in_place_of_a_source_that_changed(
    tmp_path: Path, capsys, monkeypatch, command: str, change: Callable[[Path], None]
) -> None:
    source, output = write_model(tmp_path / "in.bin", WIDE), tmp_path / "out.bin"
    output.write_bytes(b"lmggold")
    real = os.pwrite
    pending = [change]

    def pwrite(*arguments: object) -> int:
        if pending:
            pending.pop()(source)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("os.pwrite", pwrite)
    words = [command, str(source), str(output), *(["q4_0"] if command == "quantize" else [])]
    assert main([*words, "--threads", "1"]) == 1
    said = capsys.readouterr().err
    assert "in.bin: changed while it was read: " in said
    assert "hint: wait until nothing writes it" in said
    assert output.read_bytes() == b"lmggold"
    assert not list(tmp_path.glob(".*.part"))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_model(tmp_path / "in.bin", WIDE)


def test_a_source_that_is_only_read_is_the_same_afterwards(source: Path, tmp_path: Path) -> None:
    os.link(source, tmp_path / "another-name.bin")
    source.chmod(0o444)
    with open_model(source) as model:
        quantize(make_plan(model, Recipe(parse_type("q4_0"))), tmp_path / "out.bin")
        (tmp_path / "another-name.bin").unlink()
        model.check_unchanged()


def test_what_is_compared_is_the_same_to_the_end(source: Path) -> None:
    with open_model(source) as first, open_model(source) as second:
        longer(source)
        with pytest.raises(FormatError, match="changed while it was read: it was written"):
            compare.compare(first, second)


def test_what_is_evaluated_is_what_was_hashed(source: Path) -> None:
    (state,) = describe(source, "in").states
    state.check()
    replaced(source)
    with pytest.raises(FormatError, match="another file has its name"):
        state.check()


@pytest.mark.parametrize("change", [longer, written, replaced, cut])
def test_a_calibration_that_changes_is_an_error(tmp_path: Path, change: Callable[[Path], None]) -> None:
    path = tmp_path / "a.calib"
    write_calibration(path)
    calibration = read_calibration(path)
    name = next(iter(calibration.counts))
    calibration.moments(name)
    change(path)
    with pytest.raises(CalibrationError, match=r"changed while it was read|damaged"):
        calibration.moments(name)


def test_a_closed_file_reads_no_other(source: Path) -> None:
    file = SourceFile(source)
    file.close()
    with source.open("rb"), pytest.raises(FormatError, match="cannot be read"):
        file.read(0, 4)


def test_what_nobody_holds_is_closed(source: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = descriptors()
    for _ in range(5):
        SourceFile(source).read(0, 4)
    assert descriptors() == before


def test_reads_that_give_less_are_gone_on_with(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pread

    def pieces() -> Iterator[int]:
        yield from (1, 2, 3)
        while True:
            yield 1 << 30

    sizes = pieces()
    monkeypatch.setattr("os.pread", lambda descriptor, size, offset: real(descriptor, min(size, next(sizes)), offset))
    assert bytes(SourceFile(source).read(10, 100)) == source.read_bytes()[10:100]


@pytest.mark.parametrize("fault", [5, 116])
def test_a_disk_that_cannot_read_is_an_error(source: Path, monkeypatch: pytest.MonkeyPatch, fault: int) -> None:
    file = SourceFile(source)

    def refuse(*_: object) -> bytes:
        raise OSError(fault, os.strerror(fault))

    monkeypatch.setattr("os.pread", refuse)
    with pytest.raises(FormatError, match=r"in\.bin: cannot be read: "):
        file.read(0, 4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_nobody_waits_for_a_pipe_into_which_nothing_is_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(FormatError, match="it is a pipe or a device"):
        open_model(tmp_path / "pipe.gguf")
    with pytest.raises(FormatError, match="is a pipe or a device, expected a file"):
        SourceFile(tmp_path / "pipe.gguf")
    with pytest.raises(CalibrationError, match="is a pipe, expected a file"):
        read_calibration(tmp_path / "pipe.gguf")
