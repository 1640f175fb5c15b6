"""How a command shows how far it is: bars on a terminal, a line per minute elsewhere, nothing when quiet."""

import argparse
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.command_line import command, run
from whisq.cli import console as module
from whisq.cli.arguments import size_bytes
from whisq.cli.console import Console
from whisq.errors import OutputError
from whisq.writing import check_writable


class Recording(Console):
    """Keeps what its bars were told."""

    def __init__(self) -> None:
        super().__init__()
        self.bars: list[list] = []

    @contextlib.contextmanager
    def bar(self, total, label):
        bar = [label, 0, total, "open"]
        self.bars.append(bar)

        def advance(amount, label=""):
            assert amount >= 0
            bar[0] = label or bar[0]
            bar[1] += amount

        yield advance
        bar[3] = "closed"


def test_on_a_terminal_each_stage_has_a_bar_and_the_last_one_is_closed(monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    console = Recording()
    with console.stages() as progress:
        for done in (0, 1.5, 1, 3):  # never backwards
            progress("measuring", done, 3)
        progress("writing", 0, 0)  # nothing to do is done
        assert [bar[3] for bar in console.bars] == ["closed", "open"]
    assert [(bar[0], bar[1] / bar[2], bar[3]) for bar in console.bars] == [
        ("measuring", 1, "closed"),
        ("writing", 1, "closed"),
    ]


def test_elsewhere_a_line_says_how_far_it_is(monkeypatch, capsys) -> None:
    times = iter([0.0, 30.0, 61.0, 90.0, 121.0, 200.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    with Console().stages() as progress:
        for done in (0, 1, 2, 3, 4, 8):
            progress("measuring", done, 8)
    assert capsys.readouterr().err.splitlines() == [
        "measuring: 25 %, about 3 min left",
        "measuring: 50 %, about 2 min left",
    ]


def test_elsewhere_a_line_names_each_stage_of_longer_work(monkeypatch, capsys) -> None:
    times = iter([0.0, 5.0, 25.0, 26.0, 50.0])
    monkeypatch.setattr(module.time, "monotonic", lambda: next(times))
    with Console().stages() as progress:
        for stage in ("reading", "listening", "rounding", "rounding", "measuring"):
            progress(stage, 1, 8)
    assert capsys.readouterr().err.splitlines() == ["rounding …", "measuring …"]


SHARES = {"listening": 60.0, "rounding": 240.0, "measuring": 120.0}


def test_elsewhere_lines_say_how_long_everything_takes(monkeypatch, capsys) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with Console().stages() as progress:
        progress.expect(SHARES)
        for time_s, stage, done in (
            (0, "listening", 0),
            (61, "listening", 4),
            (122, "rounding", 0),
            (242, "rounding", 2),
        ):
            now[0] = time_s
            progress(stage, done, 8)
    # Twice as slow as expected: 122 s for 60. A quarter of rounding took 120 s.
    assert capsys.readouterr().err.splitlines() == [
        "listening: 50 %, about 1 min left, 13 min for everything",
        "rounding … (12 min for everything)",
        "rounding: 25 %, about 6 min left, 10 min for everything",
    ]


def test_on_a_terminal_the_bar_says_how_long_everything_takes(monkeypatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    now = 0.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    console = Recording()
    with console.stages() as progress:
        progress.expect(SHARES)
        progress("listening", 0, 8)
        assert console.bars[-1][0] == "listening", "nothing tells yet"
        now = 30.0
        progress("listening", 4, 8)
    assert console.bars[-1][0] == "listening (6 min for everything)"


def test_quiet_says_nothing(monkeypatch, capsys) -> None:
    monkeypatch.setattr(module, "NOTE_EVERY_S", 0)
    with Console(quiet=True).stages() as progress:
        progress("measuring", 1, 8)
    assert not capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [("45MB", 45_000_000), ("1.5 gb", 1_500_000_000), ("2kB", 2000), ("55MiB", 55 << 20), ("1 KiB", 1024)],
)
def test_sizes(text, expected) -> None:
    assert size_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "MB", "-3MB", "4 5MB", "45TB"])
def test_what_is_not_a_size(text) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a size"):
        size_bytes(text)


def test_every_output_that_cannot_be_written_is_told_before_the_work(tmp_path) -> None:
    check_writable(None, tmp_path / "new.json", str(tmp_path / "new.html"))
    with pytest.raises(OutputError) as raised:
        check_writable(tmp_path, None, tmp_path / "absent" / "x.json")
    assert f"{tmp_path}: is a directory" in str(raised.value)
    assert f"directory {tmp_path / 'absent'} does not exist" in str(raised.value)


def through(shell: str, *words: object) -> subprocess.CompletedProcess[str]:
    """Run ``whisq`` with its streams as a line of a shell has them, where ``"$@"`` is the command."""
    return subprocess.run(["sh", "-c", shell, "sh", *command(*words)], capture_output=True, text=True, timeout=60)


WARNED = ("--tensor-type", "absent=q4_0")


@pytest.mark.parametrize("shell", ['"$@" >&-', '"$@" 2>&-', '"$@" <&- >&- 2>&-', '"$@" 2>/dev/full'])
def test_the_work_is_done_whatever_takes_the_output(source, tmp_path, shell: str) -> None:
    assert through('"$@"', "quantize", *WARNED, source, tmp_path / "plain.bin", "q4_0").returncode == 0
    done = through(shell, "quantize", *WARNED, source, tmp_path / "out.bin", "q4_0")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.bin").read_bytes() == (tmp_path / "plain.bin").read_bytes()


def test_a_reader_that_leaves_ends_no_work(source, tmp_path) -> None:
    read, write = os.pipe()
    os.close(read)
    words = command("quantize", *WARNED, source, tmp_path / "out.bin", "q4_0")
    assert subprocess.run(words, stdout=write, stderr=write, timeout=60).returncode == 0
    os.close(write)
    assert (tmp_path / "out.bin").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
@pytest.mark.parametrize("more", [[], ["--json"], ["--json", "--quiet"]])
def test_no_room_for_what_is_printed_is_an_error_and_the_file_is_there(source, tmp_path, more) -> None:
    done = through('"$@" > /dev/full', "quantize", *WARNED, *more, source, tmp_path / "out.bin", "q4_0")
    assert done.returncode == 1
    assert "error: stdout: cannot be written: No space left on device" in done.stderr
    assert (tmp_path / "out.bin").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
@pytest.mark.parametrize(
    "line",
    [
        "--help",
        "--version",
        "quantize --help",
        "inspect SOURCE",
        "inspect --json SOURCE",
        "compare SOURCE SOURCE",
        "compare --json SOURCE SOURCE",
        "quantize --dry-run SOURCE out.bin q4_0",
        "quantize --dry-run --json SOURCE out.bin q4_0",
    ],
)
def test_no_room_for_what_is_all_that_a_command_does(source, line: str) -> None:
    done = through('"$@" > /dev/full', *line.replace("SOURCE", str(source)).split())
    assert done.returncode == 1, done.stderr
    errors = [said for said in done.stderr.splitlines() if said.startswith("error")]
    assert errors == ["error: stdout: cannot be written: No space left on device"]
    assert "Traceback" not in done.stderr


def test_quiet_drops_no_json(capsys, source) -> None:
    code, out, _ = run(capsys, "inspect", "--json", source)
    assert code == 0
    assert json.loads(out)
    code, out, _ = run(capsys, "quantize", "--json", "--quiet", "--dry-run", source, "out.bin", "q4_0")
    assert code == 0
    assert json.loads(out)["tensors"]
