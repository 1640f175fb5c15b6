"""``whisq demo``: real weights and a real runtime, in one command."""

from __future__ import annotations

from tests.support.schema import checked
from whisq import demo
from whisq.cli import main


def test_the_demo_command(transcribe_cpp, capsys):
    assert main(["demo"]) == 0
    out = capsys.readouterr().out
    assert out.count(demo.SENTENCE[:-1]) >= 2
    assert "gives the same transcript" in out


def test_the_demo_for_scripts(transcribe_cpp, capsys):
    assert main(["demo", "--json"]) == 0
    found = checked(capsys.readouterr().out, "demo")
    assert found["same_text"]
    assert found["files"][0]["size_bytes"] > found["files"][1]["size_bytes"]
