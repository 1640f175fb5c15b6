"""The point of it all: real weights, quantized, transcribe the sentence in real runtimes, as the registry says."""

import re
import subprocess
import sys

import pytest

from tests.support.models import REAL_MODELS
from whisq import Recipe, demo, load_recipe, make_plan, open_model, quantize
from whisq.types import TYPES

pytestmark = pytest.mark.usefixtures("transcribe_cpp")

LIFT = (r"decoder\.token_embedding\.weight",)


def words(text):
    return re.sub(r"[^a-z ]", "", text.lower()).split()


def make(source, path, recipe, **options):
    with open_model(source) as model:
        quantize(make_plan(model, recipe, **options), path)
    return path


@pytest.mark.parametrize("preset", ["conservative", "balanced", "compact"])
@pytest.mark.parametrize("size", REAL_MODELS)
def test_presets_transcribe_in_transcribe_cpp(request, tmp_path, speech, size, preset):
    source = request.getfixturevalue(f"{size}_bin")
    path = make(source, tmp_path / "out.bin", load_recipe(preset))
    assert words(demo.transcribe(path, speech, threads=2).text) == words(demo.SENTENCE)


def test_from_a_ctranslate2_folder_and_from_f32(tmp_path, speech, tiny_en_folder, tiny_en_f32_bin):
    first = make(tiny_en_folder, tmp_path / "a.bin", load_recipe("balanced"))
    second = make(tiny_en_f32_bin, tmp_path / "b.bin", load_recipe("balanced"))
    assert demo.transcribe(first, speech).text == demo.transcribe(second, speech).text
    with open_model(first) as a, open_model(second) as b:
        for tensor in a.tensors:
            assert bytes(a.rows(tensor)) == bytes(b.rows(b[tensor.name])), tensor.name


@pytest.mark.parametrize("size", REAL_MODELS)
def test_bin_and_gguf_of_one_recipe_are_the_same_model(request, tmp_path, speech, size):
    """The same bytes for every tensor, as whisq and as the gguf package read them, and the same text."""
    gguf = pytest.importorskip("gguf")
    source = request.getfixturevalue(f"{size}_bin")
    first = make(source, tmp_path / "a.bin", load_recipe("balanced"))
    second = make(source, tmp_path / "a.gguf", load_recipe("balanced"), container="gguf")
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(second).tensors}
    with open_model(first) as a, open_model(second) as b:
        assert [tensor.name for tensor in a.tensors] == [tensor.name for tensor in b.tensors]
        for tensor in a.tensors:
            other = b[tensor.name]
            assert other.type is tensor.type
            assert bytes(b.rows(other)) == bytes(a.rows(tensor)), tensor.name
            assert theirs[other.source_name].data.tobytes() == bytes(a.rows(tensor)), tensor.name
            assert theirs[other.source_name].tensor_type == tensor.type.ggml_type
    heard = [demo.transcribe(path, speech, threads=2).text for path in (first, second)]
    assert heard[0] == heard[1]
    assert words(heard[0]) == words(demo.SENTENCE)


def in_pywhispercpp(path):
    # In a process of its own: the two runtimes bring two builds of one library.
    code = (
        "import sys; from pywhispercpp.model import Model; from whisq import demo\n"
        f"model = Model({str(path)!r}, print_progress=False, print_realtime=False, language='en')\n"
        "print('HEARD', ' '.join(s.text for s in model.transcribe(demo.speech())))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "HEARD" in done.stdout, done.stderr[-2000:]
    return done.stdout.split("HEARD")[1].strip()


@pytest.mark.parametrize(
    ("size", "name"),
    [
        # All that fit tiny.en's rows.
        *(("tiny_en", name) for name in ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "iq4_nl", "mxfp4", "bf16", "f16")),
        ("base", "q4_K"),
        ("base", "q6_K"),
        ("base", "iq4_nl"),
    ],
)
def test_uniform_files_transcribe_in_whisper_cpp(whisper_cpp, request, tmp_path, size, name):
    source = request.getfixturevalue(f"{size}_bin")
    path = make(source, tmp_path / "out.bin", Recipe(TYPES[name], unprotect=LIFT), target="whisper.cpp")
    assert words(in_pywhispercpp(path)) == words(demo.SENTENCE)


def test_whisper_cpp_refuses_the_mix_that_we_say_it_refuses(whisper_cpp, tmp_path, tiny_en_bin):
    path = make(tiny_en_bin, tmp_path / "out.bin", load_recipe("balanced"))
    code = f"from pywhispercpp.model import Model; Model({str(path)!r}).transcribe({str(demo.speech_path())!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "wrong size in model file" in done.stderr
