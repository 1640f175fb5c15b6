"""The GGUF that whisq writes: what other readers and a real runtime make of it, and what its metadata say."""

from __future__ import annotations

import json
import math
import re
import struct
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.containers import copy_model, write_bin, write_huggingface
from tests.support.models import RELEASED, released, tiny_weights
from whisq.formats import open_model
from whisq.formats.gguf_metadata import metadata_of, variant_of_sizes
from whisq.formats.layout import Output
from whisq.model import Model
from whisq.types import TYPES
from whisq.whisper import name_in_dialect


def tiny_gguf(folder: Path, provenance: dict[str, Any] | None = None) -> Path:
    with open_model(write_bin(folder / "tiny.bin", tiny_weights())) as source:
        return copy_model(source, folder / "tiny.gguf", "gguf", provenance)


def test_official_reader_sees_the_same_tensors(tiny_en_bin: Path, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    with open_model(tiny_en_bin) as model:
        reader = gguf.GGUFReader(copy_model(model, tmp_path / "a.gguf", "gguf"))
        found = {tensor.name: tensor for tensor in reader.tensors}
        assert set(found) == {name_in_dialect(t.name, "transcribe.cpp") for t in model.tensors} | {
            "frontend.mel_filterbank",
            "frontend.window",
        }
        for tensor in model.tensors:
            theirs = found[name_in_dialect(tensor.name, "transcribe.cpp")]
            assert tuple(theirs.shape) == tuple(reversed(tensor.shape))
            assert theirs.tensor_type.value == tensor.type.ggml_type
            assert theirs.data.tobytes() == bytes(model.rows(tensor))
        assert found["frontend.mel_filterbank"].data.tobytes() == model.mel_filters
        assert _field(reader, "general.architecture") == "whisper"
        tokens = reader.fields["tokenizer.ggml.tokens"]
        texts = [bytes(tokens.parts[i]).decode() for i in tokens.data]
        assert len(texts) == model.dims.n_vocab
        assert texts[50256:50258] == ["<|endoftext|>", "<|startoftranscript|>"]
        assert texts[-1] == "<|30.00|>"


def _field(reader: Any, key: str) -> Any:
    return reader.fields[key].contents()


def test_window_is_a_periodic_hann(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    reader = gguf.GGUFReader(tiny_gguf(tmp_path))
    window = next(tensor for tensor in reader.tensors if tensor.name == "frontend.window").data
    expected = [math.sin(math.pi * k / 400) ** 2 for k in range(400)]
    assert np.allclose(window, expected, rtol=0, atol=6e-8)


def test_metadata_of_a_multilingual_model(base_bin: Path) -> None:
    with open_model(base_bin) as model:
        keys = _keys(model)
    assert keys["general.name"] == "Whisper Base"
    assert keys["stt.variant"] == "whisper-base"
    assert keys["general.languages"][:3] == ["en", "zh", "de"]
    assert len(keys["general.languages"]) == 99
    assert keys["stt.capability.lang_detect"] is True
    assert keys["stt.translation.target_languages"] == ["en"]
    assert keys["general.file_type"] == 1
    ids = {key: keys[f"stt.whisper.{key}_token_id"] for key in _TOKEN_KEYS}
    assert ids == dict(zip(_TOKEN_KEYS, (50258, 50258, 50363, 50359, 50358, 50361), strict=True))
    assert keys["tokenizer.ggml.eos_token_id"] == 50257


def test_metadata_of_an_english_model(tiny_en_bin: Path) -> None:
    with open_model(tiny_en_bin) as model:
        keys = _keys(model)
    assert keys["general.name"] == "Whisper Tiny (English)"
    assert keys["general.languages"] == ["en"]
    assert keys["stt.capability.lang_detect"] is False
    assert "stt.translation.target_languages" not in keys
    assert keys["stt.whisper.decoder_start_token_id"] == 50257
    assert keys["stt.whisper.no_timestamps_token_id"] == 50362


_TOKEN_KEYS = ("decoder_start", "sot", "no_timestamps", "transcribe", "translate", "prev_sot")


def _keys(model: Model, **provenance: Any) -> dict[str, Any]:
    outputs = [Output(tensor, tensor.type) for tensor in model.tensors]
    return {key: value.value for key, value in metadata_of(model, outputs, provenance).items()}


def test_every_key_that_the_runtime_demands_is_there(tiny_en_bin: Path) -> None:
    with open_model(tiny_en_bin) as model:
        keys = _keys(model)
    encoder = ("n_layers", "d_model", "n_heads", "ffn_dim", "num_mel_bins", "max_source_positions", "activation")
    decoder = ("n_layers", "d_model", "n_heads", "ffn_dim", "max_target_positions", "vocab_size", "activation")
    frontend = ("type", "num_mels", "sample_rate", "n_fft", "win_length", "hop_length", "window", "normalize")
    demanded = [f"stt.whisper.encoder.{name}" for name in encoder] + [f"stt.whisper.decoder.{name}" for name in decoder]
    demanded += [f"stt.frontend.{name}" for name in frontend]
    demanded += [
        f"tokenizer.ggml.{name}" for name in ("model", "pre", "tokens", "token_type", "merges", "eos_token_id")
    ]
    assert set(demanded) <= keys.keys()


@pytest.mark.parametrize("name", RELEASED)
def test_released_sizes_have_their_names(name: str) -> None:
    expected = name if name.startswith("distil") else f"whisper-{name}"
    assert variant_of_sizes(released(name)) == re.sub("^whisper-large-v[12]$", "whisper-large", expected)


def test_provenance_is_written_and_carried_on(tmp_path: Path) -> None:
    first = tiny_gguf(
        tmp_path,
        {
            "source": {"sha256": "ab" * 32, "size_bytes": 1 << 33},
            "recipe": 'default = "q5_0"',
            "quantize.imatrix.file": "speech.imatrix.gguf",
            "quantize.imatrix.entries_count": 64,
            "nothing": None,
        },
    )
    with open_model(first) as model:
        stated = model.metadata["gguf"]
        assert stated["whisq.source.sha256"] == "ab" * 32
        assert stated["whisq.source.size_bytes"] == 1 << 33
        assert stated["whisq.recipe"] == 'default = "q5_0"'
        assert stated["quantize.imatrix.entries_count"] == 64
        assert stated["whisq.version"]
        assert "whisq.nothing" not in stated
        converted = copy_model(model, tmp_path / "second.gguf", "gguf", {"source": {"name": "first.gguf"}})
        quantized = copy_model(model, tmp_path / "third.gguf", "gguf", {"recipe": "another"})
    with open_model(converted) as model:
        assert model.metadata["gguf"]["whisq.recipe"] == 'default = "q5_0"'
        assert model.metadata["gguf"]["quantize.imatrix.file"] == "speech.imatrix.gguf"
    with open_model(quantized) as model:
        assert model.metadata["gguf"]["whisq.recipe"] == "another"
        assert "quantize.imatrix.file" not in model.metadata["gguf"]


def test_license_and_name_come_from_the_model_card(tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path / "my-whisper", tiny_weights())
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\nlicense: mit\n")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": "someone/whisper-Tiny-nl"}))
    with open_model(folder) as model:
        keys = _keys(model)
    assert keys["general.license"] == "apache-2.0"
    assert keys["stt.variant"] == "whisper-tiny-nl"


def test_file_type_names_the_commonest_type(tiny_en_bin: Path) -> None:
    with open_model(tiny_en_bin) as model:
        outputs = [Output(t, TYPES["q8_0"] if t.role == "mlp.0" else t.type) for t in model.tensors]
        assert metadata_of(model, outputs, {})["general.file_type"].value == 1
        outputs = [Output(t, TYPES["q5_0"] if t.spec.is_matrix else t.type) for t in model.tensors]
        keys = metadata_of(model, outputs, {})
    assert keys["general.file_type"].value == 8
    assert keys["general.quantization_version"].value == 2


def test_runtime_hears_the_same_from_bin_and_gguf(
    transcribe_cpp, base_bin: Path, tiny_en_bin: Path, speech_wav: Path, tmp_path: Path
) -> None:
    with wave.open(str(speech_wav)) as stream:
        raw = stream.readframes(stream.getnframes())
    samples = np.array(struct.unpack(f"<{len(raw) // 2}h", raw), np.float32) / 32768
    for source in (base_bin, tiny_en_bin):
        with open_model(source) as model:
            path = copy_model(model, tmp_path / f"{source.stem}.gguf", "gguf")
        heard = []
        for file in (source, path):
            with transcribe_cpp.Model(str(file)) as loaded, loaded.session() as session:
                heard.append(session.run(samples).text)
        assert heard[0] == heard[1]
        assert len(heard[0].split()) > 5
