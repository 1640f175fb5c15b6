"""``whisq demo``: real weights and a real runtime, in one command."""

from __future__ import annotations

from whisq import demo
from whisq.cli import main


def test_the_demo_command(transcribe_cpp, capsys):
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    assert out.count(demo.SENTENCE[:-1]) >= 2
    assert "gives the same transcript" in out
