"""What judges a command that was ended tells the old file and a whole one from anything else."""

from pathlib import Path
from random import Random

from tests.campaign import running
from tests.campaign.ended import _SIGNALS, _wrong
from tests.support.containers import write_model
from tests.support.models import WIDE


def test_an_output_is_the_old_one_or_whole(tmp_path: Path) -> None:
    path = write_model(tmp_path / "out.bin", WIDE)
    whole = path.read_bytes()
    assert running.wrong_output(path, whole) is None
    assert running.wrong_output(path, b"old") is None
    path.write_bytes(whole[:-1])
    assert "is not whole" in (running.wrong_output(path, b"old") or "")
    path.write_bytes(b"")
    assert running.wrong_output(path, b"old") == "the new file is empty"
    path.unlink()
    assert running.wrong_output(path, b"old") == "the old file is gone"
    assert running.wrong_output(path, None) is None


def test_an_end_has_its_exit_code_and_one_line() -> None:
    number = next(number for number in _SIGNALS if number.name == "SIGTERM")
    assert _wrong(143, "ended by SIGTERM: nothing was kept\n", number) is None
    assert _wrong(0, "", number) is None
    assert _wrong(-15, "", number) == "exit -15"
    assert _wrong(143, "", number) == "exit 143: "
    assert _wrong(1, "Traceback (most recent call last):\n", number)


def test_every_command_that_writes_comes_up(tmp_path: Path) -> None:
    random = Random(1)
    found = {running.random_words(random, tmp_path)[0][0] for _ in range(200)}
    assert {"quantize", "convert", "calibrate", "search", "optimize", "evaluate", "report"} <= found


def test_a_process_that_still_runs_is_found(tmp_path: Path) -> None:
    process = running.start(["--version"], "mine")
    process.wait(60)
    assert running.left_running("mine") == []
