"""The parent's end of a worker: what it is told when things go wrong."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from whisq.runtimes.process import WorkerError, WorkerProcess, WorkerRefusedError

ECHO = """
import os, sys
from whisq.runtimes.worker import private_stdout, serve

class Echo:
    def environment(self, name):
        return {"value": os.environ.get(name)}
    def complain(self, lines):
        sys.stderr.write("".join(f"{line}\\n" for line in lines))
        sys.stderr.flush()
        raise ValueError("no")
    def leave(self, code):
        os._exit(code)

serve(sys.stdin, private_stdout(), Echo())
"""


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "echo_worker.py").write_text(ECHO)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "echo_worker"


def test_an_abort_starts_no_debugger(echo: str) -> None:
    with WorkerProcess(echo) as worker:
        assert worker.ask("environment", name="GGML_NO_BACKTRACE") == {"value": "1"}


def test_a_failure_carries_the_end_of_stderr(echo: str) -> None:
    with WorkerProcess(echo) as worker:
        with pytest.raises(WorkerRefusedError) as caught:
            worker.ask("complain", lines=["one", "two", "", "load_backend: cpu", "three", "four"])
        assert str(caught.value) == "ValueError: no (two / three / four)"
        assert worker.ask("environment", name="nothing of this name") == {"value": None}


def test_the_end_of_the_process_is_told(echo: str) -> None:
    with WorkerProcess(echo) as worker, pytest.raises(WorkerError, match="exited with code 7"):
        worker.ask("leave", code=7)
    with WorkerProcess(echo) as worker:
        os.kill(worker.pid, 9)
        with pytest.raises(WorkerError, match="died of SIGKILL"):
            worker.ask("environment", name="PATH")


def test_whisper_cpp_aborts_on_f32_as_we_say(whisper_cpp: object, tiny_en_f32_bin: Path, speech_wav: Path) -> None:
    """Why ``whisper_cpp._f32_convs`` objects to f32 files; where this fails, whisper.cpp has learned them."""
    pytest.importorskip("soxr", reason="needs the extra 'evaluate'")
    with WorkerProcess("whisq.runtimes.worker") as worker:
        worker.ask("load", runtime="whisper.cpp", path=str(tiny_en_f32_bin), threads=2, fallback=False)
        with pytest.raises(WorkerError, match="died of SIGABRT"):
            worker.ask("run", path=str(speech_wav), row=None, segment=None, language="en")
