"""A signal ends the program with one line and its own exit code, at any moment, and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import whisq.cli
import whisq.stopping
from tests.support.containers import write_model
from tests.support.models import WIDE

SIGNALS = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM]
PROGRAM = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores both for what runs in the background
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
number = int(sys.argv[1])
def now(): os.kill(os.getpid(), number)
"""


def run(code: str, number: int, *words: object) -> subprocess.CompletedProcess[str]:
    """Run the beginning of a program, and this, in a process of its own."""
    asked = [sys.executable, "-c", PROGRAM + code, str(int(number)), *map(str, words)]
    return subprocess.run(asked, capture_output=True, text=True, check=False, timeout=120)


def assert_ended(done: subprocess.CompletedProcess[str], number: int, kept: str = "nothing was kept") -> None:
    why = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
    assert done.stderr == f"{why}: {kept}\n"
    assert done.returncode == 128 + number


@pytest.mark.parametrize("number", SIGNALS)
def test_from_the_first_line_on(number: signal.Signals) -> None:
    assert_ended(run("import whisq.__main__\nnow()\nprint('not reached')", number), number)


@pytest.mark.parametrize("module", ["argparse", "whisq.cli", "numpy", "numpy.linalg", "whisq.kernels", "json"])
def test_while_something_is_imported(tmp_path: Path, module: str) -> None:
    source = write_model(tmp_path / "in.bin", WIDE)
    code = f"""
import whisq.__main__
class Finder:
    def find_spec(self, name, *more):
        if name == {module!r}: now()
sys.meta_path.insert(0, Finder())
sys.modules.pop({module!r}, None) if {module!r} in ('json', 'argparse') else None
sys.argv = ['whisq', 'compare', sys.argv[2], sys.argv[2], '--json']
raise SystemExit(whisq.__main__.whisq())
"""
    assert_ended(run(code, signal.SIGTERM, source), signal.SIGTERM)
    assert list(tmp_path.iterdir()) == [source]


def test_in_a_callback_that_would_lose_an_exception() -> None:
    code = "import whisq.__main__\nclass A:\n    def __del__(self): now()\na = A()\ndel a\nprint('not reached')"
    done = run(code, signal.SIGINT)
    assert_ended(done, signal.SIGINT)
    assert done.stdout == ""


def test_while_native_code_does_not_let_python_run() -> None:
    code = """
import whisq.__main__, hashlib, threading
threading.Timer(0.2, now).start()
hashlib.pbkdf2_hmac('sha512', b'', b'', 10**8)
"""
    started = time.monotonic()
    assert_ended(run(code, signal.SIGTERM), signal.SIGTERM)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize("number", SIGNALS)
def test_a_file_on_its_way_and_a_scratch_folder_go(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "out.bin").write_text("old")
    code = """
import whisq.__main__
from whisq.writing import scratch_folder, whole
with scratch_folder() as folder, whole(sys.argv[2]) as part:
    (folder / "large").write_text("x")
    print(folder)
    sys.stdout.flush()
    part.write(b"new", 0)
    now()
"""
    done = run(code, number, tmp_path / "out.bin")
    assert_ended(done, number)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]
    assert not Path(done.stdout.strip()).exists()


def test_a_step_that_must_not_come_apart_is_finished_first(tmp_path: Path) -> None:
    code = """
import whisq.__main__
from whisq.stopping import held
with held:
    now()
    print("whole")
    sys.stdout.flush()
print("not reached")
"""
    done = run(code, signal.SIGTERM)
    assert_ended(done, signal.SIGTERM)
    assert done.stdout == "whole\n"


def test_what_was_written_is_not_denied(tmp_path: Path) -> None:
    code = "import whisq.__main__\nfrom whisq.writing import write_text\nwrite_text(sys.argv[2], 'x')\nnow()"
    done = run(code, signal.SIGTERM, tmp_path / "a.txt")
    assert_ended(done, signal.SIGTERM, "one file had been written, whole, and nothing else was kept")


def test_a_process_of_its_own_ends_with_it() -> None:
    code = """
import whisq.__main__
from whisq.runtimes.process import WorkerProcess
worker = WorkerProcess("whisq.runtimes.worker")
print(worker.pid)
sys.stdout.flush()
now()
"""
    done = run(code, signal.SIGHUP)
    assert_ended(done, signal.SIGHUP)
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)


def test_what_the_starter_ignores_stays_ignored() -> None:
    """As ``nohup whisq …`` does."""
    code = "signal.signal(number, signal.SIG_IGN)\nimport whisq.__main__\nnow()\nprint('reached')"
    done = run(code, signal.SIGHUP)
    assert (done.returncode, done.stdout, done.stderr) == (0, "reached\n", "")


def test_a_child_that_was_forked_ends_alone_and_takes_nothing_along(tmp_path: Path) -> None:
    code = """
import whisq.__main__
from whisq.writing import whole
with whole(sys.argv[2]) as part:
    child = os.fork()
    if not child:
        now()
        os._exit(3)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), part.path.exists())
"""
    done = run(code, signal.SIGTERM, tmp_path / "out.bin")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"-{signal.SIGTERM.value} True\n", "")


def test_a_library_handles_no_signals() -> None:
    code = """
before = [signal.getsignal(number) for number in (1, 2, 3, 15)]
import whisq, whisq.cli, whisq.writing
whisq.open_model, whisq.quantize, whisq.evaluate
try: whisq.cli.main(["inspect", "absent"])
finally: assert before == [signal.getsignal(number) for number in (1, 2, 3, 15)]
"""
    assert run(code, 0).returncode == 0


def test_what_comes_before_signals_are_handled_is_next_to_nothing() -> None:
    code = f"import sys; sys.path[:0] = {sys.path!r}; import whisq.stopping; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert "whisq.stopping" in done.stdout.split()
    assert not {"typing", "re", "enum", "signal", "contextlib", "threading", "collections"} & set(done.stdout.split())


MOMENTS_S = (0.02, 0.05, 0.08, 0.1, 0.13, 0.16, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5)


@pytest.mark.parametrize(("number", "moment_s"), list(zip(SIGNALS * 3, MOMENTS_S, strict=True)))
def test_whenever_it_comes(tmp_path: Path, number: signal.Signals, moment_s: float) -> None:
    """By itself or by a signal: nothing in between."""
    source = write_model(tmp_path / "in.bin", WIDE)
    (tmp_path / "out.bin").write_bytes(b"lmggold")
    words = [
        sys.executable,
        "-c",
        "import os, whisq.__main__; os.write(1, b'!'); raise SystemExit(whisq.__main__.whisq())",
    ]
    words += ["quantize", str(source), str(tmp_path / "out.bin"), "q4_0", "--quiet"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.read(1)
    time.sleep(moment_s)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    if process.returncode == 0:
        assert said.decode().startswith("note: ")
        assert (tmp_path / "out.bin").stat().st_size > 1000
    else:
        assert process.returncode == 128 + number
        assert said.count(b"\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.bin", "out.bin"]


@pytest.mark.parametrize(("resumes", "said"), [(True, "the same command resumes it"), (False, "nothing was kept")])
def test_ctrl_c_where_no_program_handles_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, resumes: bool, said: str
) -> None:
    def interrupted(*_: object) -> int:
        whisq.stopping.begin(resumes=resumes)
        raise KeyboardInterrupt

    monkeypatch.setattr("whisq.cli.inspect.run", interrupted)
    assert whisq.cli.main(["inspect", "in.bin"]) == 130
    assert capsys.readouterr().err == f"interrupted: {said}\n"


@pytest.mark.parametrize("number", SIGNALS)
def test_when_all_is_done_it_changes_nothing(number: signal.Signals) -> None:
    code = """
import whisq.__main__
sys.argv = ["whisq", "--version"]
class Late:
    def __del__(self): now()
sys.late = Late()  # goes when Python takes its modules apart
raise SystemExit(whisq.__main__.whisq())
"""
    done = run(code, number)
    assert (done.returncode, done.stderr) == (0, "")


def test_sections_count_in_the_thread_that_is_in_one() -> None:
    with whisq.stopping.held:
        pass
    key = whisq.stopping.undo_at_end(lambda: None)
    whisq.stopping.undone(key)
    assert key not in whisq.stopping._undo  # a process that matches patterns may have its own
