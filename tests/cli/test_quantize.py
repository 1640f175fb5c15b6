"""``whisq quantize`` as people type it: what goes to stdout and stderr, exit codes, and the file."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import whisq
from tests.support.containers import write_ctranslate2, write_model, write_openai
from tests.support.models import NARROW, WIDE, named_weights, tiny_weights
from whisq.cli import main, quantize_main
from whisq.recipe import save_recipe
from whisq.whisper import TOKEN_EMBEDDING, expected_tensors

pytestmark = pytest.mark.usefixtures("any_vocabulary")

LINE = re.compile(
    r"^ *(?P<name>\S+) - \[ *\d+, +\d+, +\d+\], type = +(?P<type>\S+)(?P<note>.*?) size = +(?P<before>[\d.]+) MB"
    r"(?: -> +(?P<after>[\d.]+) MB)?$"
)


@pytest.fixture
def source_f32(tmp_path):
    return write_model(tmp_path / "in32.bin", WIDE, kind=0)


def run(capsys, *words):
    code = quantize_main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def lines_of(out):
    found = {}
    for line in out.splitlines():
        match = LINE.match(line)
        if match:
            found[match["name"]] = match
    return found


def test_one_line_a_tensor_in_file_order(capsys, source, tmp_path):
    code, out, err = run(capsys, source, tmp_path / "out.bin", "q4_0")
    assert code == 0
    assert err == "note: loads in whisper.cpp-pr3605, transcribe.cpp; for whisper.cpp: --target whisper.cpp\n"
    lines = lines_of(out)
    with whisq.open_model(source) as model:
        assert list(lines) == [tensor.name for tensor in model.tensors]
    assert lines["decoder.token_embedding.weight"]["note"] == " [skipped]"
    assert lines["encoder.positional_embedding"]["note"] == " [skipped]"
    assert lines["encoder.blocks.0.mlp.0.weight"]["note"] == " default -> q4_0"
    assert lines["encoder.blocks.0.mlp.0.weight"]["after"] is not None
    assert lines["encoder.blocks.0.mlp.0.bias"]["note"] == ""
    assert lines["encoder.blocks.0.mlp.0.bias"]["after"] is None


def test_the_exact_form_of_the_lines(capsys, source, tmp_path):
    _, out, _ = run(capsys, "--tensor-type", r"decoder\.blocks\.0\.mlp.*=q4_0", source, tmp_path / "out.bin", "q8_0")
    assert (
        "          decoder.token_embedding.weight - [   64,    16,     1], type =    f16 [skipped] size =    0.002 MB\n"
        in out
    )
    assert (
        "           decoder.blocks.0.mlp.0.weight - [   64,   256,     1], type =    f16 matched pattern -> q4_0"
        " size =     0.03 MB ->     0.01 MB\n" in out
    )


def test_an_f32_source_says_what_is_stored_as_f16(capsys, source_f32, tmp_path):
    _, out, _ = run(capsys, source_f32, tmp_path / "out.bin", "q4_0")
    lines = lines_of(out)
    assert lines["decoder.token_embedding.weight"]["note"] == " [skipped] stored as f16"
    assert lines["encoder.conv1.weight"]["note"] == " stored as f16"


def test_matched_pattern_only_where_a_rule_quantized(capsys, source, tmp_path):
    _, out, _ = run(capsys, "--tensor-type", ".*=q4_0", source, tmp_path / "out.bin", "q8_0")
    for name, match in lines_of(out).items():
        quantized = name.endswith(".weight") and any(part in name for part in (".attn.", ".cross_attn.", ".mlp."))
        assert ("matched pattern -> q4_0" in match["note"]) == quantized


def test_a_name_in_the_files_dialect_is_shown(capsys, source, tmp_path):
    rule = r"dec\.blocks\.0\.cross_attn\.q\.weight=q4_0"
    _, out, _ = run(capsys, "--tensor-type", rule, source, tmp_path / "out.bin", "q8_0")
    assert "(as dec.blocks.0.cross_attn.q.weight)" in out


def test_the_summary(capsys, source, tmp_path):
    arguments = ["--tensor-type", r".*mlp.*\.weight=q4_K", source, tmp_path / "out.bin", "q8_0"]
    _, out, _ = run(capsys, *arguments)
    for expected in (
        "bits per weight",
        r"'.*mlp.*\.weight'=q4_K: 12 tensors",
        "default q8_0: 36 tensors",
        "protected: 5 tensors",
        "q4_K -> q5_0: 6 tensors, whose rows of 64",
        "no  whisper.cpp (stock",
        "yes  transcribe.cpp",
        "wrote ",
    ):
        assert expected in out


def test_dry_run_prints_the_exact_size_and_writes_nothing(capsys, source, tmp_path):
    _, out, _ = run(capsys, "--dry-run", "--recipe", "balanced", source, tmp_path / "out.bin")
    assert not (tmp_path / "out.bin").exists()
    (size,) = re.findall(r"would have (\d+) bytes", out)
    _, real, _ = run(capsys, "--recipe", "balanced", source, tmp_path / "out.bin")
    assert (tmp_path / "out.bin").stat().st_size == int(size)
    assert lines_of(out).keys() == lines_of(real).keys()


def test_json(capsys, source, tmp_path):
    arguments = ["--json", "--tensor-type", ".*attn_q=q4_0", source, tmp_path / "out.bin", "q4_K"]
    _, out, _ = run(capsys, *arguments)
    result = json.loads(out)
    assert result["size_after_bytes"] == (tmp_path / "out.bin").stat().st_size
    assert {warning["code"] for warning in result["warnings"]} == {"no-match", "misfit"}
    assert result["tensors"][0]["why"] == "protected"
    assert {runtime["runtime"] for runtime in result["runtimes"]} >= {"whisper.cpp", "transcribe.cpp"}


def test_quiet(capsys, source, tmp_path):
    code, out, err = run(capsys, "--quiet", "--tensor-type", "foo=q4_0", source, tmp_path / "out.bin", "q8_0")
    assert (code, out) == (0, "")
    assert "warning: rule 'foo'=q4_0 matches no tensor" in err


def test_warnings_go_to_stderr_with_their_hint(capsys, source, tmp_path):
    code, out, err = run(capsys, "--tensor-type", ".*attn_q.*=q4_0", source, tmp_path / "out.bin", "q8_0")
    assert code == 0
    assert "warning:" not in out
    assert re.search(r"warning: .*\nhint: ", err)


def test_strict_makes_errors_of_warnings(capsys, source, tmp_path):
    arguments = ["--strict", "--tensor-type", "foo=q4_0", "--tensor-type", ".*=q4_0", source, tmp_path / "out.bin"]
    code, _, err = run(capsys, *arguments, "q8_0")
    assert code == 1
    assert "2 warnings" in err
    assert not (tmp_path / "out.bin").exists()


def test_recipe_out_saves_what_was_asked(capsys, source, tmp_path):
    run(capsys, "--recipe", "compact", "--tensor-type", ".*cross_attn.*weight=q8_0", "--recipe-out",
        tmp_path / "r.toml", source, tmp_path / "a.bin")  # fmt: skip
    run(capsys, "--recipe", tmp_path / "r.toml", source, tmp_path / "b.bin")
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_command_line_rules_come_before_the_recipes(capsys, source, tmp_path):
    _, out, _ = run(capsys, "--recipe", "conservative", "--tensor-type", ".*mlp.*=q4_0", source, tmp_path / "a.bin")
    assert "matched pattern -> q4_0" in lines_of(out)["encoder.blocks.0.mlp.0.weight"][0]


def test_what_the_command_line_says_goes_before_the_recipe_and_what_it_does_not_say_is_the_recipes(
    capsys, source, tmp_path
):
    mine, saved = tmp_path / "mine.toml", tmp_path / "saved.toml"
    own = whisq.Recipe(whisq.parse_type("q4_0"), protect=(r".*attn\..*",), unprotect=("a",), on_misfit="error")
    mine.write_text(save_recipe(own))

    def asked(*words) -> whisq.Recipe:
        code, _, _ = run(capsys, "--dry-run", "--recipe", mine, "--recipe-out", saved, *words)
        assert code == 0
        return whisq.load_recipe(saved)

    paths = (source, tmp_path / "a.bin")
    assert asked(*paths) == own
    assert asked(*paths, "q8_0") == replace(own, default=whisq.parse_type("q8_0"))
    assert asked("--on-misfit", "fallback", *paths) == replace(own, on_misfit="fallback")
    more = asked("--protect", "b", "--unprotect", "c", *paths)
    assert (more.protect, more.unprotect) == ((*own.protect, "b"), ("a", "c"))


def test_an_ftype_number_is_a_type(capsys, source, tmp_path):
    run(capsys, source, tmp_path / "a.bin", "2")
    run(capsys, source, tmp_path / "b.bin", "Q4_0")
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_a_ctranslate2_folder(capsys, tmp_path):
    folder = write_ctranslate2(tmp_path / "model", named_weights(NARROW))
    code, out, _ = run(capsys, folder, tmp_path / "out.bin", "q8_0")
    assert code == 0
    assert len(lines_of(out)) == len(expected_tensors(NARROW))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["absent.bin", "out.bin", "q4_0"], "absent.bin: no such file"),
        (["in.bin", "out.bin", "q9"], "unknown tensor type 'q9'"),
        (["in.bin", "out.bin"], "neither TYPE nor --recipe"),
        (["in.bin", "in.bin", "q4_0"], "is the input itself"),
        (["in.bin", ".", "q4_0"], "is a directory"),
        (["in.bin", "out.bin", "q4_0", "--tensor-type", "(=q4_0"], "not a regular expression"),
        (["in.bin", "out.bin", "q4_0", "--tensor-type", "*.mlp.*=q4_0"], r"'.*\.mlp\..*'"),
        (["in.bin", "out.bin", "q4_K", "--on-misfit", "error"], "rows of 64 do not fit q4_K"),
        (["in.bin", "out.bin", "q4_0", "--target", "whisper.cpp", "--recipe", "compact"], "drop the rules"),
        (["in.bin", "out.bin", "q4_0", "--embedding", "q8_0", "--protect", "decoder.*"], "contradict each other"),
        (["in.bin", "out.bin", "q4_0", "--threads", "0"], "threads"),
        (["in.bin"], "required"),
        (["in.bin", "out.bin", "q4_0", "--recipe", "nope"], "presets: balanced compact conservative"),
        (["in.bin", "out.bin", "q4_0", "--recipe-out", "absent/x.toml"], "absent/x.toml"),
    ],
)
def test_what_the_user_typed_wrong_is_exit_1(capsys, source, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    try:
        code = quantize_main(words)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 1
    assert message in captured.err
    assert "hint: " in captured.err
    assert sorted(tmp_path.iterdir()) == before


def test_whisq_and_quantize_take_the_same_arguments(capsys, source, tmp_path):
    assert main(["quantize", str(source), str(tmp_path / "a.bin"), "q4_0"]) == 0
    assert quantize_main([str(source), str(tmp_path / "b.bin"), "q4_0"]) == 0
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()


def test_a_closed_pipe_does_not_stop_the_file(source, tmp_path):
    script = f"{sys.executable} -c 'import sys; from whisq.cli import main; sys.exit(main())'"
    line = f"set -o pipefail; {script} quantize {source} {tmp_path}/out.bin q4_0 | head -1"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out.bin").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(tmp_path, tiny_en_bin, number):
    code = (
        "import sys, os, signal\n"
        # A shell without job control starts background jobs with SIGINT ignored; a terminal does not.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from whisq.__main__ import whisq\n"
        "import whisq.kernels as k; real = k.quantize_rows; n = [0]\n"
        "def slow(*a, **m):\n"
        "    n[0] += 1\n"
        f"    if n[0] == 5: os.kill(os.getpid(), {int(number)})\n"
        "    return real(*a, **m)\n"
        "k.quantize_rows = slow\n"
        "raise SystemExit(whisq())"
    )
    words = [sys.executable, "-c", code, "quantize", str(tiny_en_bin), str(tmp_path / "out.bin"), "q4_0"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 128 + number
    said = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
    assert done.stderr == f"{said}: nothing was kept\n"
    assert list(tmp_path.iterdir()) == []


def test_quantize_of_a_bin_does_without_numpy(source, tmp_path):
    code = "import sys; from whisq.cli import main\n"
    code += f"main(['quantize', '--quiet', {str(source)!r}, {str(tmp_path / 'out.bin')!r}, 'q4_0'])\n"
    code += "print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_a_misfit_is_said_with_the_block_size_of_its_own_type(capsys, tmp_path):
    # Rows of 48 fit no blocks at all: it is 32 that they are not a multiple of.
    odd = replace(NARROW, n_audio_state=48, n_text_state=48)
    source = write_model(tmp_path / "odd.bin", odd)
    assert main(["quantize", str(source), str(tmp_path / "out.bin"), "q4_0"]) == 0
    assert "rows of 48 are not a multiple of 32" in capsys.readouterr().out


def test_the_drop_in_file_says_why_its_embedding_is_not_protected(capsys, source, tmp_path):
    words = ["quantize", str(source), str(tmp_path / "out.bin"), "q4_0", "--quiet"]
    assert main([*words, "--target", "whisper.cpp"]) == 0
    assert capsys.readouterr().err == "note: embedding: q4_0, since whisper.cpp loads one type only\n"
    assert main([*words, "--embedding", "q8_0", "--strict"]) == 0
    assert "note: embedding: q8_0, its protection is lifted\n" in capsys.readouterr().err
    assert main(words) == 0
    assert capsys.readouterr().err == (
        "note: loads in whisper.cpp-pr3605, transcribe.cpp; for whisper.cpp: --target whisper.cpp\n"
    )
    with whisq.open_model(tmp_path / "out.bin") as made:
        assert made[TOKEN_EMBEDDING].type.name == "f16"


def test_strict_refuses_what_no_runtime_loads(capsys, source, tmp_path):
    words = ["quantize", str(source), str(tmp_path / "out.gguf"), "iq4_nl", "--quiet"]
    assert main([*words, "--strict"]) == 1
    assert "no runtime that whisq knows loads this file" in capsys.readouterr().err
    assert not (tmp_path / "out.gguf").exists()


def test_strict_refuses_what_is_left_over(capsys, tmp_path):
    weights = tiny_weights()
    extra = {**weights.arrays, "classifier.weight": np.zeros((2, 32), np.float16)}
    source = write_openai(tmp_path / "a.pt", replace(weights, arrays=extra))
    words = ["quantize", str(source), str(tmp_path / "out.gguf"), "q4_0", "--embedding", "q8_0", "--quiet"]
    assert main(words) == 0
    assert "warning: " in (told := capsys.readouterr().err)
    assert "left out: classifier.weight" in told
    (tmp_path / "out.gguf").unlink()
    assert main([*words, "--strict"]) == 1
    told = capsys.readouterr().err
    assert "--strict makes errors of 1 warning:" in told
    assert "left out: classifier.weight" in told
    assert not (tmp_path / "out.bin").exists()


@pytest.mark.parametrize(
    "mistake",
    [
        ("--tensor-type", r"encoder\.blocks\.9\..*=q8_0"),
        ("--protect", r".*no_such_name.*"),
        ("--unprotect", r".*no_such_name.*"),
        ("--unprotect", r"encoder\.blocks\.0\.mlp\.0\.weight"),
    ],
)
def test_strict_refuses_patterns_that_do_nothing(capsys, source, tmp_path, mistake):
    words = ["quantize", str(source), str(tmp_path / "out.bin"), "q4_0", "--quiet", *mistake]
    assert main([*words, "--strict"]) == 1
    assert "--strict makes errors of 1 warning:" in capsys.readouterr().err
    assert not (tmp_path / "out.bin").exists()
    assert main(words) == 0
    assert "warning: " in capsys.readouterr().err
