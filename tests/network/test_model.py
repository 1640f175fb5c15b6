"""Whisper in transformers, built from a whisq Model, against what is known of it otherwise."""

from pathlib import Path

import numpy as np
import pytest

import whisq
from whisq.errors import DataError
from whisq.network.mel import log_mel, windows
from whisq.network.model import load_torch_whisper
from whisq.network.tokens import encode_text, prompt_tokens, special_tokens
from whisq.whisper import Dimensions

MULTILINGUAL = Dimensions(51865, 1500, 512, 8, 6, 448, 512, 8, 6, 80)
ENGLISH = Dimensions(51864, 1500, 384, 6, 4, 448, 384, 6, 4, 80)
LARGE_V3 = Dimensions(51866, 1500, 1280, 20, 32, 448, 1280, 20, 32, 128)


@pytest.mark.parametrize(
    ("dims", "ids"),
    [
        (ENGLISH, (50256, 50257, 50358, 50362)),
        (MULTILINGUAL, (50257, 50258, 50359, 50363)),
        (LARGE_V3, (50257, 50258, 50360, 50364)),
    ],
)
def test_control_tokens_are_openais(dims: Dimensions, ids: tuple[int, ...]) -> None:
    special = special_tokens(dims)
    names = ("endoftext", "startoftranscript", "transcribe", "notimestamps")
    assert tuple(special[name] for name in names) == ids


def test_prompt_names_the_language_only_where_there_is_one() -> None:
    pytest.importorskip("transformers")
    assert prompt_tokens(ENGLISH, "de") == [50257, 50362]
    assert prompt_tokens(MULTILINGUAL, "de") == [50258, 50261, 50359, 50363]
    with pytest.raises(DataError, match="'xx'"):
        prompt_tokens(MULTILINGUAL, "xx")


def test_windows_cover_the_audio_and_drop_a_crumb() -> None:
    sizes = [piece.size for piece in windows(np.zeros(16_000 * 65, np.float32))]
    assert sizes == [480_000, 480_000, 80_000]
    assert [piece.size for piece in windows(np.zeros(480_100, np.float32))] == [480_000]
    assert [piece.size for piece in windows(np.zeros(100, np.float32))] == [100]


def test_text_is_cut_as_the_tokenizers_package_cuts_it(tiny_en_bin: Path, tiny_en_folder: Path) -> None:
    from tokenizers import Tokenizer

    theirs = Tokenizer.from_file(str(tiny_en_folder / "tokenizer.json"))
    with whisq.open_model(tiny_en_bin) as model:
        for text in (
            " And so, my 1995 friends'  don't\n",
            " Größe ¿cómo? 日本語 🤗",
            "produced the block books",
            "",
        ):
            expected = theirs.encode(text, add_special_tokens=False).ids
            assert encode_text(text, model.tokenizer) == expected


def test_mel_and_weights_make_a_model_that_hears(torch, tiny_en_bin: Path, speech_wav: Path) -> None:
    from whisq.clips.audio import read_audio

    with whisq.open_model(tiny_en_bin) as model:
        network = load_torch_whisper(model)
        assert network.proj_out.weight is network.model.decoder.embed_tokens.weight
        ids = prompt_tokens(model.dims)
        end = special_tokens(model.dims)["endoftext"]
        mel = log_mel(read_audio(speech_wav), model)
        assert mel.shape == (1, 80, 3000)
        with torch.inference_mode():
            encoded = network.model.encoder(mel).last_hidden_state
            while ids[-1] != end and len(ids) < 60:
                logits = network(encoder_outputs=(encoded,), decoder_input_ids=torch.tensor([ids])).logits
                ids.append(int(logits[0, -1].argmax()))
        text = b"".join(model.tokenizer.tokens[i] for i in ids[2:-1]).decode()
        assert len(text.split()) > 3
        assert encode_text(text, model.tokenizer) == ids[2:-1]
