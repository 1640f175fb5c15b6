"""How a command shows how far it is: bars on a terminal, a line per minute elsewhere, nothing when quiet."""

import argparse
import contextlib
import sys

import pytest

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
    def progress(self, total, label):
        bar = [label, 0, total, "open"]
        self.bars.append(bar)

        def advance(amount):
            assert amount >= 0
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
