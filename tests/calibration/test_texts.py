"""What the decoder is shown of each window."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import whisq
from tests.support.containers import write_huggingface
from tests.support.models import TINY, tiny_weights
from whisq.calibration.texts import Window, lines_of, more_lines, windows_of, written_ids
from whisq.clips.builtin import builtin_clips
from whisq.clips.clip import Clip, Sentence
from whisq.formats.special_tokens import SpecialTokens, special_tokens
from whisq.model import Model
from whisq.network.tokens import encode_text

WITH_TIMESTAMPS = replace(TINY, n_audio_ctx=1500, n_text_ctx=448, n_vocab=1800)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A model with a token for each timestamp that knows English, German and French."""
    with whisq.open_model(
        write_huggingface(tmp_path_factory.mktemp("hf") / "hf", tiny_weights(WITH_TIMESTAMPS))
    ) as model:
        yield model


@pytest.fixture
def special(model: Model) -> SpecialTokens:
    return special_tokens(model)


def window(text: str = "", language: str | None = None, *sentences: Sentence, name: str = "a") -> Window:
    clip = Clip(name, Path(f"{name}.wav"), text, language, sentences=sentences)
    return Window(clip, 0, 32000, language)


def spoken(special: SpecialTokens, ids: list[int]) -> list[str]:
    """Return the names of special tokens, and a point for all others."""
    return [special.texts.get(token, ".") for token in ids]


def squeezed(names: list[str]) -> str:
    """Return them in one line, texts as one point."""
    return " ".join(name for n, name in enumerate(names) if name != "." or names[n - 1] != ".")


def test_every_second_window_has_timestamps(model: Model, special: SpecialTokens) -> None:
    lines = lines_of(model, special, [window("the tea", name=name) for name in "abcd"])
    assert [line.timed for line in lines] == [False, True, False, True]
    assert [line.window for line in lines] == [0, 1, 2, 3]
    prompt = "<|startoftranscript|> <|en|> <|transcribe|>"
    assert squeezed(spoken(special, lines[0].ids)) == f"{prompt} <|notimestamps|> . <|endoftext|>"
    assert squeezed(spoken(special, lines[1].ids)) == f"{prompt} <|0.00|> . <|2.00|> <|endoftext|>"


def test_sentences_of_one_language_are_one_line(model: Model, special: SpecialTokens) -> None:
    both = (Sentence(0.0, 1.5, "de", "der Tee"), Sentence(1.5, 2.0, "de", "er"))
    first, second = lines_of(model, special, [window("", "de", *both), window("", "de", *both, name="b")])
    prompt = "<|startoftranscript|> <|de|> <|transcribe|>"
    assert squeezed(spoken(special, first.ids)) == f"{prompt} <|notimestamps|> . <|endoftext|>"
    assert first.ids[4:-1] == encode_text(" der Tee er", model.tokenizer)
    timed = f"{prompt} <|0.00|> . <|1.50|> <|1.50|> . <|2.00|> <|endoftext|>"
    assert squeezed(spoken(special, second.ids)) == timed


def test_sentences_of_several_languages_are_a_line_each_and_their_translations_too(
    model: Model, special: SpecialTokens
) -> None:
    both = (Sentence(0.0, 1.0, "de", "der Tee", "the tea"), Sentence(1.0, 2.0, "fr", "the"))
    lines = lines_of(model, special, [window("", None, *both)])
    assert [line.window for line in lines] == [0, 0, 0]
    assert [squeezed(spoken(special, line.ids)) for line in lines] == [
        "<|startoftranscript|> <|de|> <|transcribe|> <|notimestamps|> . <|endoftext|>",
        "<|startoftranscript|> <|fr|> <|transcribe|> <|1.00|> . <|2.00|> <|endoftext|>",
        "<|startoftranscript|> <|de|> <|translate|> <|notimestamps|> . <|endoftext|>",
    ]
    assert lines[2].ids[4:-1] == encode_text(" the tea", model.tokenizer)


def test_what_has_no_text_or_is_cut_is_for_the_model_to_write(model: Model, special: SpecialTokens) -> None:
    long = window("a long text")
    cut = [long, replace(long, number=1)]
    assert [line.ids for line in lines_of(model, special, [window(), *cut])] == [[], [], []]
    assert [line.ids for line in lines_of(model, special, [window("the tea")], own=True)] == [[]]


def test_what_the_model_wrote_gets_timestamps_where_its_line_has_them(model: Model, special: SpecialTokens) -> None:
    first, second = lines_of(model, special, [window(name="a"), window(name="b")])
    text = [70, 71, special.required("end")]
    prompt = "<|startoftranscript|> <|en|> <|transcribe|>"
    assert squeezed(spoken(special, written_ids(special, first, window(), text))) == (
        f"{prompt} <|notimestamps|> . <|endoftext|>"
    )
    timed = written_ids(special, second, window(), text)
    assert squeezed(spoken(special, timed)) == f"{prompt} <|0.00|> . <|2.00|> <|endoftext|>"
    assert written_ids(special, second, window(), text[:2]) == timed[:-1]


def test_a_vocabulary_without_timestamps_is_shown_none(tmp_path: Path) -> None:
    with whisq.open_model(write_huggingface(tmp_path / "hf", tiny_weights(TINY))) as model:
        lines = lines_of(model, special_tokens(model), [window("tea", name=name) for name in "ab"])
    assert [line.timed for line in lines] == [False, False]
    assert all(len(line.ids) <= TINY.n_text_ctx for line in lines)


def test_more_text_is_as_much_as_was_asked_for_and_not_heard(model: Model, special: SpecialTokens) -> None:
    assert more_lines(model, special, 3, 0) == []
    few, many = (more_lines(model, special, 3, n) for n in (2000, 40_000))
    for lines, n_tokens in ((few, 2000), (many, 40_000)):
        total = sum(len(line.ids) for line in lines)
        assert n_tokens <= total < n_tokens + 224
        assert not any(line.heard for line in lines)
        assert {line.window for line in lines} == {0, 1, 2}
        assert {line.language for line in lines} == {"en", "de", "fr"}
    assert more_lines(model, special, 3, 2000) == few
    assert more_lines(model, special, 3, 2000, seed=1) != few


def test_the_built_in_speech_has_lines_of_both_kinds_in_every_language(model: Model, special: SpecialTokens) -> None:
    lines = lines_of(model, special, windows_of(builtin_clips("calibrate", special).clips))
    assert {line.language for line in lines} == {"en", "de", "fr"}
    assert all(line.ids for line in lines)
    assert abs(sum(line.timed for line in lines) - len(lines) / 2) <= 2
    assert any(special.translate in line.ids for line in lines)
