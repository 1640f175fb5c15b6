"""Plausible mistakes, each with what whisq answers: what was wrong, and what to type, in the user's own words."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from tests.support.calibrations import write as write_calibration
from tests.support.command_line import run
from tests.support.containers import write_model
from tests.support.models import WIDE
from whisq import extras
from whisq.cli import COMMANDS, quantize_main
from whisq.extras import install_hint


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("typed")
    write_model(folder / "in.bin", WIDE)
    write_calibration(folder / "a.calib")
    (folder / "mine.toml").write_text("[recipe]\ndefault = 'q4_0'\n")
    (folder / "my model.bin").write_bytes((folder / "in.bin").read_bytes())
    (folder / "clips").mkdir()
    (folder / "clips" / "one.wav").write_bytes(b"RIFF")
    (folder / "clips.csv").write_text("path,text\nclips/one.wav,hello\n")
    (folder / "results.json").write_text("{}")
    return folder


SEARCH = "search in.bin --calibration a.calib -o mix.toml"
MISTAKES = [
    # the order of arguments
    ("quantize q5_0 in.bin out.bin", "INPUT is 'q5_0', which is a type", "whisq quantize in.bin out.bin q5_0"),
    ("quantize in.bin q5_0 out.bin", "OUTPUT is 'q5_0', which is a type", "whisq quantize in.bin out.bin q5_0"),
    ("quantize Q4_K_M in.bin out.bin", "INPUT is 'Q4_K_M'", "whisq quantize in.bin out.bin Q4_K_M"),
    ("quantize q5_0 out.bin in.bin", "INPUT is 'q5_0'", "whisq quantize in.bin out.bin q5_0"),
    ("quantize out.bin in.bin q5_0", "while OUTPUT, in.bin, is there", "whisq quantize in.bin out.bin q5_0"),
    ("quantize 'out 2.bin' 'my model.bin' q8_0", "is there", "whisq quantize 'my model.bin' 'out 2.bin' q8_0"),
    ("quantize out.bin in.bin", "while OUTPUT, in.bin, is there", "whisq quantize in.bin out.bin"),
    ("quantize in.bin q5_0", "OUTPUT is missing: 'q5_0' is a type", "whisq quantize in.bin in-q5_0.bin q5_0"),
    ("convert out.gguf in.bin", "while OUTPUT, in.bin, is there", "whisq convert in.bin out.gguf"),
    (
        "optimize new.bin in.bin --bits 5 --data clips.csv",
        "while OUTPUT, in.bin, is there",
        "whisq optimize in.bin new.bin",
    ),
    ("quantize in.bin", "required: OUTPUT", "the form: whisq quantize INPUT OUTPUT TYPE"),
    ("convert openai/whisper-tiny", "required: OUTPUT", "the form: whisq convert SOURCE OUTPUT"),
    ("compare in.bin", "required: B", "the form: whisq compare A B"),
    ("evaluate in.bin", "required: --data", "the form: whisq evaluate REFERENCE CANDIDATE --data CLIPS"),
    ("evaluate --data clips", "required: REFERENCE\n", "the form: whisq evaluate REFERENCE"),
    ("calibrate in.bin --data clips x.calib", "required: -o/--output", "whisq calibrate MODEL -o FILE --data CLIPS"),
    (
        "search in.bin a.calib -o mix.toml --size 3MB",
        "required: --calibration",
        "--calibration FILE -o FILE --size SIZE",
    ),
    (SEARCH, "one of the arguments --size --bits", "MODEL --calibration FILE -o FILE --size SIZE"),
    ("optimize in.bin out.bin --data clips", "one of the arguments", "MODEL OUTPUT --size SIZE"),
    # types
    ("quantize in.bin out.bin q5_0 q4_0", "TYPE is given twice: q5_0 and q4_0", "whisq quantize in.bin out.bin q4_0"),
    ("quantize q5_0 q4_0 in.bin", "TYPE is given twice: q5_0 and q4_0", "INPUT OUTPUT TYPE"),
    ("quantize in.bin out.bin q5", "unknown tensor type 'q5'", "(did you mean q5_0?)"),
    ("quantize in.bin out.bin int8", "unknown tensor type 'int8'", "(did you mean q8_0?)"),
    ("quantize in.bin out.bin fp16", "unknown tensor type 'fp16'", "(did you mean f16?)"),
    ("quantize in.bin out.bin q4-0", "unknown tensor type 'q4-0'", "(did you mean q4_0?)"),
    ("quantize in.bin out.bin Q4_K_M", "unknown tensor type 'Q4_K_M'", "(--recipe balanced); for one type: q4_K"),
    ("quantize in.bin out.bin balanced", "'balanced' is a recipe", "whisq quantize in.bin out.bin --recipe balanced"),
    ("quantize in.bin out.bin mine.toml", "'mine.toml' is a recipe", "quantize in.bin out.bin --recipe mine.toml"),
    ("quantize in.bin out.bin q5_0 --embedding q99", "unknown tensor type 'q99'", "use one of: f32 f16"),
    ("quantize in.bin out.bin", "neither TYPE nor --recipe", "add a type (q5_0) after OUTPUT"),
    ("quantize in.bin out.bin q5_0 4", "4: more than whisq quantize takes", "--threads 4"),
    ("convert in.bin out.gguf f16", "f16: more than", "whisq convert in.bin out.gguf --type f16"),
    ("convert in.bin out.gguf q5_0", "q5_0: more than", "whisq quantize in.bin out.gguf q5_0"),
    ("convert in.bin out.gguf --type q5_0", "whisq quantize makes files of type q5_0", "--help"),
    ("convert in.bin out.gguf --type fp16", "'fp16' is not one of f16, f32, bf16 (did you mean f16?)", "--help"),
    (f"{SEARCH} --size 3MB --types q4_0 q8_0", "q8_0: more than", "--types q4_0,q8_0"),
    (f"{SEARCH} --size 3MB --types q4", "unknown tensor type 'q4'", "(did you mean q4_0?)"),
    # rules and patterns
    ("quantize in.bin out.bin q5_0 --tensor-type mlp q8_0", "the rule 'mlp' has no type", "--tensor-type mlp=q8_0"),
    ("quantize in.bin out.bin q5_0 --tensor-type '.*mlp.*'", "'.*mlp.*' is not a rule", "'.*mlp.*=q4_0'"),
    ("quantize in.bin out.bin q5_0 --tensor-type '.*mlp.*:q8_0'", "is not a rule", "'.*mlp.*=q8_0'"),
    ("quantize in.bin out.bin q5_0 --tensor-type '.*mlp.* q8_0'", "is not a rule", "'.*mlp.*=q8_0'"),
    ("quantize in.bin out.bin q5_0 --tensor-type 'q8_0=.*mlp.*'", "the type comes first", "'.*mlp.*=q8_0'"),
    ("quantize in.bin out.bin q5_0 --tensor-type '*mlp*=q8_0'", "'*mlp*' is not a regular", "'.*mlp.*'"),
    ("quantize in.bin out.bin q5_0 --tensor-type '.*mlp.*=q9'", "in the rule '.*mlp.*=q9'", "use one of: f32"),
    ("compare in.bin in.bin --match attn_v", "'attn_v' matches no tensor", r"'.*attn\.value.*' would match encoder"),
    ("compare in.bin in.bin --match mlp", "'mlp' matches no tensor", "the whole name: '.*mlp.*' would"),
    ("compare in.bin in.bin --match '*mlp*'", "'*mlp*' is not a regular expression", "'.*mlp.*'"),
    # recipes and runtimes
    ("quantize in.bin out.bin --recipe Balanced", "no recipe or file is called 'Balanced'", "(did you mean balanced?)"),
    ("quantize in.bin out.bin --recipe compact.toml", "no recipe or file", "(did you mean compact?)"),
    (
        "demo --recipe q5_0",
        "no recipe or file is called 'q5_0'",
        "'q5_0' is a type: whisq quantize takes it after OUTPUT",
    ),
    ("demo balanced", "balanced: is a recipe, not a model", "whisq demo --recipe balanced"),
    ("demo --output in.bin", "in.bin: cannot be made a folder", "name a folder that is not there yet"),
    ("quantize in.bin out.bin q5_0 --target whispercpp", "unknown runtime", "(did you mean whisper.cpp?)"),
    ("quantize in.bin out.bin q5_0 --target transcribe_cpp", "unknown runtime", "(did you mean transcribe.cpp?)"),
    (f"{SEARCH} --size 3MB --target whispercpp", "unknown runtime 'whispercpp'", "(did you mean whisper.cpp?)"),
    ("evaluate in.bin --data clips.csv --runtime whispercpp", "(did you mean whisper.cpp?)", "--help"),
    # options as others call them
    (
        "quantize in.bin out.bin q5_0 --token-embedding-type q8_0",
        "no option --token-embedding-type",
        "--embedding TYPE",
    ),
    ("quantize in.bin out.bin q5_0 --output-tensor-type q8_0", "no option --output-tensor-type", "--embedding TYPE"),
    ("quantize in.bin out.bin q5_0 --imatrix a.calib", "no option --imatrix", "--calibration FILE"),
    ("quantize in.bin out.bin q5_0 --leave-output-tensor", "no option", "stays in f16 without --embedding"),
    ("quantize in.bin out.bin q5_0 --pure", "no option --pure", "--target whisper.cpp"),
    ("quantize in.bin out.bin q5_0 --dryrun", "no option --dryrun", "--dry-run"),
    ("quantize in.bin out.bin --type q5_0", "no option --type", "TYPE goes by its place, the third"),
    ("quantize --type=q5_0 in.bin out.bin", "no option --type", "TYPE goes by its place, the third"),
    ("quantize in.bin -o out.bin q5_0", "no option -o", "OUTPUT goes by its place, the second"),
    ("quantize --model in.bin -o out.bin q5_0", "no option --model", "INPUT goes by its place, the first"),
    ("convert in.bin --outfile out.gguf", "no option --outfile", "OUTPUT goes by its place, the second"),
    ("convert in.bin out.gguf --outtype f16", "no option --outtype", "--type f16|f32|bf16"),
    ("convert in.bin out.gguf --recipe balanced", "no option --recipe", "recipes are for `whisq quantize`"),
    ("quantize in.bin out.bin q5_0 --method imatrix", "(did you mean importance?)", "--help"),
    ("quantize in.bin out.bin q5_0 --method gptq", "(did you mean feedback?)", "--help"),
    ("quantize in.bin out.bin q5_0 --format ggml", "(did you mean bin?)", "--help"),
    ("quantize in.bin out.bin q4_K --on-misfit fail", "(did you mean error?)", "--help"),
    ("evaluate in.bin --dataset clips.csv", "no option --dataset", "--data CLIPS"),
    (
        "optimize in.bin out.bin --size 3MB --data clips.csv --calibration a.calib",
        "no option",
        "it calibrates by itself",
    ),
    ("inspect in.bin --tensr", "no option --tensr", "--tensors"),
    # commands
    ("quantise in.bin out.bin q5_0", "no command 'quantise'", "did you mean: whisq quantize in.bin out.bin q5_0"),
    ("in.bin out.bin q5_0", "no command 'in.bin'", "whisq quantize in.bin out.bin q5_0"),
    ("transcribe in.bin", "no command 'transcribe'", "commands: quantize convert"),
    ("help", "help is an option", "whisq --help"),
    ("help search", "help is an option", "whisq search --help"),
    ("publish in.bin", "required: FOLDER", "the form: whisq publish MODEL FOLDER"),
    # values
    ("quantize in.bin out.bin q5_0 --threads 0", "'0' is not a number of threads", "--help"),
    ("evaluate in.bin --data clips.csv --limit all", "'all' is not a whole number of at least 1", "--help"),
    ("evaluate in.bin --data clips.csv --seed x", "'x' is not a whole number", "--help"),
    ("evaluate in.bin --data clips.csv --inside", "expected one argument", "it takes a value: --inside 20"),
    ("quantize in.bin out.bin --recipe", "expected one argument", "it takes a value: --recipe "),
    ("evaluate in.bin --data clips.csv --inside 9 --device gpu", "(did you mean cuda?)", "--help"),
    (f"{SEARCH} --bits 4.5bits", "'4.5bits' is not a number greater than 0, such as 5.5", "--help"),
    (f"{SEARCH} --bits q4_0", "'q4_0' is not a number greater than 0", "--help"),
    (f"{SEARCH} --bits nan", "'nan' is not a number greater than 0", "--help"),
    (f"{SEARCH} --size 45M", "'45M' is not a size", "--help"),
    (f"{SEARCH} --size -5MB", "--size -5MB: a value below zero", "--size 5MB"),
    (f"{SEARCH} --size 45mb --bits 4", "not allowed with argument --size", "--help"),
    # files of another kind
    ("inspect inn.bin", "inn.bin: no such file", "did you mean in.bin?"),
    ("inspect ggml-tiny.bin", "no such file", "ggerganov/whisper.cpp/ggml-tiny.bin"),
    ("inspect ./nowhere/b.bin", "no such file", "there is no folder nowhere"),
    ("inspect clips.csv", "it is text that begins 'path,text'", "name one of what whisq reads"),
    ("inspect a.calib", "it is a calibration, for --calibration", "name one of what whisq reads"),
    ("inspect in.bin in.bin", "in.bin: more than whisq inspect takes", "whisq inspect MODEL"),
    ("quantize in.bin out.bin q5_0 --calibration mine.toml", "is not a calibration (a file of", "make it again"),
    ("quantize in.bin out.bin q5_0 --calibration clips", "Is a directory", "check the path"),
    ("calibrate in.bin clips -o x.calib", "clips: more than whisq calibrate takes", "--data clips"),
    ("calibrate in.bin --merge clips.csv -o x.calib", "clips.csv: is not a calibration", "whisq calibrate"),
    (
        f"{SEARCH} --size 3MB --reuse mine.toml",
        "mine.toml: is not a sensitivity file",
        "whisq search --sensitivity FILE",
    ),
    ("evaluate in.bin --data clips.csv --search results.json", "is not a sensitivity file", "--sensitivity FILE"),
    ("evaluate in.bin --data clips.csv --report out.md", ".md is not written", "whisq report results.json report.md"),
    ("report results.json report.pdf", "report.pdf: .pdf is not written", "name it .html, or .md"),
    ("report in.bin", "in.bin: not UTF-8 text", "--json FILE"),
]


@pytest.mark.parametrize(("words", "said", "advised"), MISTAKES, ids=[words for words, _, _ in MISTAKES])
def test_a_mistake_is_answered(capsys, place: Path, monkeypatch, words: str, said: str, advised: str) -> None:
    monkeypatch.chdir(place)
    before = sorted(place.iterdir())
    code, out, err = run(capsys, *shlex.split(words))
    assert (code, out) == (1, "")
    message, _, hint = err.partition("\nhint: ")
    assert message.startswith("error: ")
    assert said in f"{message}\n"
    assert advised in hint
    for library in ("deserializing", "Expecting value", "header too large", "invalid choice", "unrecognized", "Errno"):
        assert library not in err
    assert sorted(place.iterdir()) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_table(command: str) -> None:
    assert any(words.split()[0] == command for words, _, _ in MISTAKES)


def test_advice_that_is_a_command_does_what_was_meant(capsys, place: Path, tmp_path: Path, monkeypatch) -> None:
    """The hint of a wrong order, pasted."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my model.bin").write_bytes((place / "in.bin").read_bytes())
    for words in (["q5_0", "my model.bin", "a.bin"], ["smaller.bin", "my model.bin", "q5_0"], ["my model.bin", "q5_0"]):
        code, _, err = run(capsys, "quantize", *words)
        assert code == 1
        advised = err.partition("\nhint: ")[2]
        pasted = shlex.split(advised[advised.index("whisq ") :])
        assert run(capsys, *pasted[1:])[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"my model.bin", "a.bin", "smaller.bin", "my model-q5_0.bin"}


@pytest.mark.parametrize("rule", [".*mlp.*=q8_0 ", " .*mlp.*=q8_0", ".*mlp.* = q8_0", ".*mlp.*=Q8_0"])
def test_spaces_around_a_rule_change_nothing(capsys, place: Path, tmp_path: Path, rule: str) -> None:
    code, out, err = run(
        capsys, "quantize", place / "in.bin", tmp_path / "out.bin", "q4_0", "--json", "--tensor-type", rule
    )
    assert code == 0, err
    assert {t["type"] for t in json.loads(out)["tensors"] if ".mlp." in t["name"] and "weight" in t["name"]} == {"q8_0"}


@pytest.mark.parametrize(
    "pattern", ["attn_q", "attn_v", "ffn_down", "blk.0.attn_k.weight", "q_proj|v_proj", "fc1", "mlp"]
)
def test_a_pattern_that_is_offered_matches_something(capsys, place: Path, tmp_path: Path, pattern: str) -> None:
    words = ["quantize", place / "in.bin", tmp_path / "out.bin", "q4_0", "--quiet", "--dry-run", "--tensor-type"]
    code, _, err = run(capsys, *words, f"{pattern}=q8_0")
    assert code == 0
    assert "matches no tensor" in err
    hint = err.partition("\nhint: ")[2].splitlines()[0]
    offered = hint.split("'")[1]
    assert "matches no tensor" not in run(capsys, *words, f"{offered}=q8_0")[2]


def test_the_plain_quantize_answers_as_well(capsys, place: Path, monkeypatch) -> None:
    monkeypatch.chdir(place)
    assert quantize_main(["q5_0", "in.bin", "out.bin"]) == 1
    assert "hint: whisq quantize in.bin out.bin q5_0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("inn.bin", "did you mean in.bin?"),  # a slip of the pen, and OUTPUT is there from an earlier run
        ("someone/in", "not in the cache"),  # an id on the hub, beside a folder of that name
    ],
)
def test_a_source_that_is_not_there_was_not_swapped(
    capsys, place: Path, tmp_path: Path, monkeypatch, source: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "someone").mkdir()
    for name in ("in.bin", "out.gguf"):
        (tmp_path / name).write_bytes((place / "in.bin").read_bytes())
    code, _, err = run(capsys, "convert", source, "out.gguf")
    assert code == 1
    assert said in err
    assert "swapped" not in err


def test_a_file_with_the_name_of_a_type_is_a_file(capsys, place: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "q8_0").write_bytes((place / "in.bin").read_bytes())
    assert run(capsys, "quantize", "q8_0", "out.bin", "q5_0")[0] == 0


def test_what_an_extra_needs_is_named_until_an_index_has_whisq(monkeypatch) -> None:
    stated = [
        "numpy>=1.26",
        "plotly>=6.0; extra == 'evaluate'",
        'transcribe-cpp<0.5,>=0.4 ; extra == "demo"',
        "atheris>=3.0; (sys_platform == 'linux') and extra == 'dev'",
        "tiny==0.1.0 ; extra == 'demo'",
    ]
    monkeypatch.setattr(extras.importlib.metadata, "requires", lambda name: stated)
    assert install_hint("demo") == "pip install 'transcribe-cpp<0.5,>=0.4' tiny==0.1.0"
    assert install_hint("evaluate") == "pip install 'plotly>=6.0'"
    monkeypatch.setattr(extras.importlib.metadata, "requires", lambda name: None)
    assert install_hint("demo") == "in a checkout of whisq: pip install '.[demo]'"
    monkeypatch.setattr(extras, "ON_AN_INDEX", True)
    assert install_hint("demo") == "pip install 'whisq[demo]'"
