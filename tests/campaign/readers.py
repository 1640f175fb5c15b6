"""Every reader of whisq as a function of bytes: a file that it reads among whole ones, and what whisq does with it."""

from __future__ import annotations

import io
import json
import wave
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.formats.test_fuzzing import KINDS, use
from tests.support.containers import write_bin
from tests.support.evaluations import made_curve, made_evaluation
from tests.support.models import TINY, tiny_weights
from whisq.clips.audio import decode_audio
from whisq.clips.datasets import load_clips
from whisq.errors import WhisqError
from whisq.evaluation.results_json import read_results, to_json
from whisq.quantization.plan import make_plan
from whisq.recipe import Recipe, load_recipe, parse_rule, save_recipe
from whisq.recipe.recipe import match_name
from whisq.report.texts import markdown_text
from whisq.screen import shown, shown_lines
from whisq.search import Sensitivity, read_sensitivity, write_sensitivity
from whisq.types import TYPES
from whisq.whisper import expected_tensors


@dataclass(frozen=True)
class Reader:
    """What is fuzzed: sound contents to begin with, and what is done with any other."""

    seeds: tuple[bytes, ...]
    read: Callable[[bytes], object]


def in_a_model(kind: str, name: str) -> Callable[[Path], Reader]:
    """Return what prepares one file of a model or of a calibration, the others being whole."""

    def prepare(folder: Path) -> Reader:
        write_bin(folder / "whole.bin", tiny_weights())
        opened, path = KINDS[kind][0](folder), folder / name

        def read(content: bytes) -> None:
            path.write_bytes(content)
            use(kind, opened)

        return Reader((path.read_bytes(),), read)

    return prepare


_VOCABULARY = '{"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3}'


def beside_a_model(name: str, *seeds: str) -> Callable[[Path], Reader]:
    """Return what prepares a file that a Hugging Face folder may have."""

    def prepare(folder: Path) -> Reader:
        opened = KINDS["huggingface"][0](folder)
        if name in ("vocab.json", "merges.txt", "added_tokens.json"):
            (folder / "tokenizer.json").unlink()
            for other, content in (("vocab.json", _VOCABULARY), ("merges.txt", "#version: 0.2\na b\n")):
                (folder / other).write_text(content)

        def read(content: bytes) -> None:
            (folder / name).write_bytes(content)
            use("huggingface", opened)

        return Reader(tuple(seed.encode() for seed in seeds), read)

    return prepare


def pickles(folder: Path) -> Reader:
    """The program of a torch file alone, which fuzzing hardly reaches through a zip file's checksums."""
    opened = KINDS["torch"][0](folder)
    with zipfile.ZipFile(opened / "pytorch_model.bin") as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    program = next(name for name in members if name.endswith("data.pkl"))

    def read(content: bytes) -> None:
        with zipfile.ZipFile(opened / "pytorch_model.bin", "w") as archive:
            for name, member in members.items():
                archive.writestr(name, content if name == program else member)
        use("torch", opened)

    return Reader((members[program],), read)


def of_text(name: str, read: Callable[[Path], object], *seeds: str) -> Callable[[Path], Reader]:
    """Return what prepares a text file that stands alone."""

    def prepare(folder: Path) -> Reader:
        path = folder / name

        def written(content: bytes) -> object:
            path.write_bytes(content)
            return read(path)

        return Reader(tuple(seed.encode() for seed in seeds), written)

    return prepare


def _recipe(path: Path) -> None:
    recipe = load_recipe(path)
    (path.parent / "again.toml").write_text(save_recipe(recipe), encoding="utf-8")
    again = load_recipe(path.parent / "again.toml")
    if [(r.what, r.type, r.reason) for r in again.rules] != [(r.what, r.type, r.reason) for r in recipe.rules]:
        raise AssertionError("saved and loaded, the rules are others")
    for spec in expected_tensors(TINY).values():
        recipe.protects(spec), recipe.first_rule(spec, TINY)


RECIPE = """[recipe]
name = "mine"
default = "q5_0"
on_misfit = "fallback"
embedding = "q8_0"
protect = ['encoder\\.blocks\\.0.*']
[[rules]]
pattern = '.*mlp.*\\.weight'
type = "q4_0"
[[rules]]
stack = "encoder"
depth = [0, 0.34]
roles = ["attention"]
type = "q8_0"
reason = "why"
"""


def _patterns(content: bytes) -> None:
    text = content.decode("utf-8", "surrogateescape")
    for spec in list(expected_tensors(TINY).values())[:4]:
        match_name(text, spec.name)


def _rules(content: bytes) -> None:
    parse_rule(content.decode("utf-8", "surrogateescape"))


def _escapes(content: bytes) -> None:
    text = content.decode("utf-8", "surrogateescape")
    for found in (shown(text), *shown_lines(text).split("\n")):
        if found.encode("utf-8").isascii() and not found.isprintable():
            raise AssertionError(f"not printable: {found!r}")
        if any(c in found for c in "\x1b\x07\x9b\r\x7f\u202e\u2066\u2028"):
            raise AssertionError(f"a terminal obeys {found!r}")


@contextmanager
def _audio_of(folder: Path) -> Iterator[None]:
    with wave.open(str(folder / "a.wav"), "wb") as stream:
        stream.setparams((1, 2, 16000, 0, "NONE", ""))
        stream.writeframes((np.random.default_rng(1).standard_normal(3200) * 5000).astype("<i2").tobytes())
    yield


def manifests(name: str, *seeds: str) -> Callable[[Path], Reader]:
    """Return what prepares a manifest beside two clips."""

    def prepare(folder: Path) -> Reader:
        with _audio_of(folder):
            (folder / "b.wav").write_bytes((folder / "a.wav").read_bytes())
        place = (folder / name).parent
        place.mkdir(exist_ok=True)
        if place != folder:
            for clip in ("a-1", "a-2"):
                (place / f"{clip}.wav").write_bytes((folder / "a.wav").read_bytes())

        def read(content: bytes) -> None:
            (folder / name).write_bytes(content)
            load_clips(folder if name.endswith(".txt") else folder / name, skip_bad=True)

        return Reader(tuple(seed.encode() for seed in seeds), read)

    return prepare


def audio(folder: Path) -> Reader:
    """Audio of every kind that can be written here."""
    import soundfile

    del folder
    samples = np.random.default_rng(1).standard_normal((800, 2)).astype(np.float32) / 4
    seeds = []
    for kind, subtype in (("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", None)):
        stream = io.BytesIO()
        soundfile.write(stream, samples, 16000, format=kind, subtype=subtype)
        seeds.append(stream.getvalue())
    return Reader(tuple(seeds), decode_audio)


def results(folder: Path) -> Reader:
    """The results of an evaluation, as ``whisq report`` reads them and turns them into tables."""
    made = made_evaluation()
    text = to_json(made)
    document = json.loads(text)
    for clip in ("clips",):
        document["data"][clip] = document["data"][clip][:3]
    for model in document["models"]:
        for listed in ("utterances", "inside", "tensors"):
            model[listed] = model[listed][:3]

    def read(content: bytes) -> None:
        (folder / "results.json").write_bytes(content)
        markdown_text(read_results(folder / "results.json"))

    return Reader((json.dumps(document).encode(),), read)


def sensitivities(folder: Path) -> Reader:
    """What a search measured."""
    path = folder / "s.json"
    harms = {"encoder.blocks.0.mlp.0.weight": {"q4_0": 0.1, "f16": 0.0}}
    write_sensitivity(
        path, Sensitivity(harms, 1.0, 1.0, ((1.0, 2.0),), {"method": "ggml"}, {}, ((1.0, 1.0),), made_curve(), None)
    )

    def read(content: bytes) -> None:
        path.write_bytes(content)
        found = read_sensitivity(path)
        found.n_measured, found.predicted(dict.fromkeys(found.harms, "q4_0"))

    return Reader((path.read_bytes(),), read)


def rules_of_a_plan(folder: Path) -> Reader:
    """Rules as they are typed, with what a plan says of them."""
    from whisq.formats import open_model

    model = open_model(write_bin(folder / "whole.bin", tiny_weights()))

    def read(content: bytes) -> None:
        rule = parse_rule(content.decode("utf-8", "surrogateescape"))
        plan = make_plan(model, Recipe(TYPES["q8_0"], (rule,)))
        [str(finding.message) + finding.hint for finding in plan.findings]

    return Reader((rb".*mlp.*\.weight=q4_0", b"attn_v=q4_0", b"blk.*.ffn_down=Q4_K"), read)


READERS: dict[str, Callable[[Path], Reader]] = {
    "bin": in_a_model("bin", "model.bin"),
    "gguf": in_a_model("gguf", "model.gguf"),
    "safetensors": in_a_model("huggingface", "model.safetensors"),
    "shards-index": in_a_model("sharded", "model.safetensors.index.json"),
    "config-json": in_a_model("huggingface", "config.json"),
    "tokenizer-json": in_a_model("huggingface", "tokenizer.json"),
    "preprocessor-json": in_a_model("huggingface", "preprocessor_config.json"),
    "generation-json": beside_a_model(
        "generation_config.json", '{"lang_to_id": {"<|en|>": 265}, "suppress_tokens": [1]}'
    ),
    "vocab-json": beside_a_model("vocab.json", _VOCABULARY),
    "merges-txt": beside_a_model("merges.txt", "#version: 0.2\na b\n"),
    "added-tokens-json": beside_a_model("added_tokens.json", '{"<|en|>": 5}'),
    "torch-zip": in_a_model("torch", "pytorch_model.bin"),
    "pickle": pickles,
    "openai": in_a_model("openai", "model.pt"),
    "ctranslate2": in_a_model("ctranslate2", "model.bin"),
    "ctranslate2-json": in_a_model("ctranslate2", "config.json"),
    "calibration": in_a_model("calibration", "model.calib"),
    "imatrix": in_a_model("imatrix", "imatrix.gguf"),
    "sensitivity": sensitivities,
    "recipe": of_text("r.toml", _recipe, RECIPE),
    "manifest-csv": manifests("m.csv", 'path,text,language\na.wav,hello,en\nb.wav,"a, b",de\n'),
    "manifest-tsv": manifests("m.tsv", "path\tsentence\tlocale\na.wav\thello\ten\nb.wav\tyou\tde\n"),
    "manifest-jsonl": manifests("m.jsonl", '{"path": "a.wav", "text": "x"}\n{"audio": "b.wav", "text": "y"}\n'),
    "librispeech": manifests("c/a.trans.txt", "a-1 HELLO\na-2 YOU\n"),
    "text-beside": manifests("a.txt", "hello you\n"),
    "results": results,
    "audio": audio,
    "rule": rules_of_a_plan,
    "rule-text": lambda folder: Reader((rb".*mlp.*\.weight=q4_0", b"a:b=2"), _rules),
    "pattern": lambda folder: Reader((rb".*mlp.*\.weight", rb"(encoder|decoder)\.blocks\.[0-3]\.attn.*"), _patterns),
    "escapes": lambda folder: Reader(("a\x1b[2J\u202eb\udcff".encode("utf-8", "surrogateescape"), b"a\n  b"), _escapes),
}
"""Every reader by its name, with what prepares it in a folder of its own."""


def outcome(reader: Reader, content: bytes) -> BaseException | None:
    """Return what is wrong with how a reader took a content: nothing, where it ends or raises an error of ours."""
    try:
        reader.read(content)
    except WhisqError as error:
        return None if str(error) else error
    except Exception as error:  # any other is what is looked for
        return error
    return None
