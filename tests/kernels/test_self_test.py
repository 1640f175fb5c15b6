"""The core's own test: the hashes that a wheel and a program without Python are held to, on every machine."""

import subprocess
import sys

import pytest

from whisq import kernels
from whisq.kernels import self_test
from whisq.types import TYPES


@pytest.mark.parametrize("isa", kernels.available_isas())
def test_every_instruction_set_gives_the_stored_hashes(isa):
    assert self_test.differing(isa) == []


def test_every_type_and_method_is_in_it():
    stored = self_test.stored_hashes()
    for kind in TYPES.values():
        methods = {method for name, method in stored if name == kind.name}
        expected = {"plain", "decode"} | ({"importance", "fit"} if kind.is_quantized else set())
        expected |= {"feedback"} if kernels.has_feedback(kind) else set()
        assert methods - {"factor"} == expected, kind
    assert ("f32", "factor") in stored
    # What a kernel that writes nothing would give is no type's hash; two types ignore the importance.
    assert len(set(stored.values())) == len(stored) - 2
    assert all(stored[name, "plain"] == stored[name, "importance"] for name in ("q8_0", "mxfp4"))


def test_the_command_needs_the_core_alone():
    code = (
        "import sys; sys.modules['numpy'] = None; from whisq.kernels.self_test import main; raise SystemExit(main([]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    total = len(self_test.stored_hashes())
    assert done.stdout.splitlines() == [f"{isa}: {total} of {total} hashes equal" for isa in kernels.available_isas()]


def test_other_bytes_are_an_error_and_can_be_stored(tmp_path, monkeypatch, capsys):
    right = self_test.STORED.read_text("ascii")
    first, _, rest = right.partition("\n")
    monkeypatch.setattr(self_test, "STORED", tmp_path / "self_test.txt")
    self_test.STORED.write_text(first[:-1] + ("0" if first[-1] != "0" else "1") + "\n" + rest, "ascii")
    assert self_test.main([]) == 1
    assert "f32 plain differs" in capsys.readouterr().out
    assert self_test.main(["--write"]) == 0
    assert self_test.STORED.read_text("ascii") == right
