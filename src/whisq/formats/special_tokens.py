"""Which token ids steer a Whisper decoder, and which it must not emit.

A ``.bin`` names none of them: loaders count them off from the vocabulary's size. Hugging Face names each. Here
names win, and what nothing names is counted off as whisper.cpp does (``whisper_vocab`` and its loader).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from whisq.formats.byte_pairs import split
from whisq.model import Model
from whisq.whisper import Dimensions

LANGUAGES = (
    "en", "zh", "de", "es", "ru", "ko", "fr", "ja", "pt", "tr", "pl", "ca", "nl", "ar", "sv", "it", "id", "hi", "fi",
    "vi", "he", "uk", "el", "ms", "cs", "ro", "da", "hu", "ta", "no", "th", "ur", "hr", "bg", "lt", "la", "mi", "ml",
    "cy", "sk", "te", "fa", "lv", "bn", "sr", "az", "sl", "kn", "et", "mk", "br", "eu", "is", "hy", "ne", "mn", "bs",
    "kk", "sq", "sw", "gl", "mr", "pa", "si", "km", "sn", "yo", "so", "af", "oc", "ka", "be", "tg", "sd", "gu", "am",
    "yi", "lo", "uz", "fo", "ht", "ps", "tk", "nn", "mt", "sa", "lb", "my", "bo", "tl", "mg", "as", "tt", "haw", "ln",
    "ha", "ba", "jw", "su", "yue",
)  # fmt: skip
"""Language codes in the order of their tokens; ``yue`` came with large-v3."""

N_TIMESTAMPS = 1501
"""Tokens for 0 to 30 s in steps of 20 ms; they end Whisper's own vocabulary."""

_ENGLISH_END_OF_TEXT, _MULTILINGUAL_END_OF_TEXT = 50256, 50257
_N_ENGLISH_VOCAB, _N_SMALLEST_MULTILINGUAL = 51864, 51865
_N_WITH_YUE = 51866
_END, _START = "<|endoftext|>", "<|startoftranscript|>"
_TRANSLATE, _TRANSCRIBE, _START_OF_LM = "<|translate|>", "<|transcribe|>", "<|startoflm|>"
_START_OF_PREVIOUS, _NO_TIMESTAMPS = "<|startofprev|>", "<|notimestamps|>"
_NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids by meaning; None where the vocabulary has no such token.

    ``languages`` maps codes (``en``) to ids and is empty for an English-only model. ``texts`` has the text of every
    id from the first special token on that is known by name or by count. ``suppress`` are never emitted,
    ``begin_suppress`` not as the first token.
    """

    end: int | None
    start: int | None
    translate: int | None
    transcribe: int | None
    previous: int | None
    no_speech: int | None
    no_timestamps: int | None
    languages: Mapping[str, int]
    texts: Mapping[int, str]
    suppress: tuple[int, ...]
    begin_suppress: tuple[int, ...]


def special_tokens(model: Model) -> SpecialTokens:
    """Return a model's special tokens: what its container says, the rest counted off."""
    counted = _counted(model.dims)
    named = {text: number for text, number in model.tokenizer.special.items() if 0 <= number < model.dims.n_vocab}
    ids = dict(counted)
    if _START in named:
        # A vocabulary that names its tokens names all that it has: only timestamps are left to be counted.
        ids = {**_timestamps(named.get(_NO_TIMESTAMPS), model.dims.n_vocab), **named}
    start = ids.get(_START)
    codes = set(LANGUAGES)
    languages = {
        text[2:-2]: number for text, number in ids.items() if text[2:-2] in codes and text == f"<|{text[2:-2]}|>"
    }
    if not _knows_languages(model, languages):
        languages = {}
    no_speech = next((ids[text] for text in _NO_SPEECH if text in ids), None)
    control = [
        start,
        ids.get(_TRANSLATE),
        ids.get(_TRANSCRIBE),
        ids.get(_START_OF_LM),
        ids.get(_START_OF_PREVIOUS),
        no_speech,
    ]
    ranks = {token: number for number, token in reversed(list(enumerate(model.tokenizer.tokens)))}
    stated = _stated_lists(model.metadata, model.dims.n_vocab)
    suppress, begin = stated if stated is not None else (None, None)
    if suppress is None:
        suppress = tuple(sorted({*_not_speech(ranks), *(number for number in control if number is not None)}))
    if begin is None:
        begin = tuple(number for number in (ranks.get(b" "), ids.get(_END)) if number is not None)
    return SpecialTokens(
        end=ids.get(_END),
        start=start,
        translate=ids.get(_TRANSLATE),
        transcribe=ids.get(_TRANSCRIBE),
        previous=ids.get(_START_OF_PREVIOUS),
        no_speech=no_speech,
        no_timestamps=ids.get(_NO_TIMESTAMPS),
        languages=dict(sorted(languages.items(), key=lambda item: item[1])),
        texts={number: text for text, number in ids.items()},
        suppress=suppress,
        begin_suppress=begin,
    )


def mistaken_by_counting(model: Model) -> bool:
    """Return whether a loader that counts special tokens off from the vocabulary's size would miss this model's.

    That is so for fine-tunes that added tokens of their own: a ``.bin`` of such a model starts at wrong tokens.
    """
    n_vocab, special = model.dims.n_vocab, model.tokenizer.special
    if _START not in special or _NO_TIMESTAMPS not in special:
        return n_vocab > _N_WITH_YUE
    multilingual = n_vocab >= _N_SMALLEST_MULTILINGUAL
    n_languages = n_vocab - _N_SMALLEST_MULTILINGUAL + 99 if multilingual else 99
    end = _MULTILINGUAL_END_OF_TEXT if multilingual else _ENGLISH_END_OF_TEXT
    return special[_START] != end + 1 or special[_NO_TIMESTAMPS] != end + 1 + n_languages + 6


def english_only(model: Model) -> bool:
    """Return whether a model has no language tokens to choose from."""
    return not _knows_languages(model, {})


def _knows_languages(model: Model, languages: Mapping[str, int]) -> bool:
    # The English vocabulary names language tokens too, which its models were never trained with.
    stated = model.metadata.get("generation_config", {}).get("is_multilingual")
    if isinstance(stated, bool):
        return stated
    gguf = model.metadata.get("gguf", {}).get("stt.capability.lang_detect")
    if isinstance(gguf, bool):
        return gguf
    return model.dims.n_vocab >= _N_SMALLEST_MULTILINGUAL or (
        model.dims.n_vocab < _N_ENGLISH_VOCAB and len(languages) > 1
    )


def _counted(dims: Dimensions) -> dict[str, int]:
    """Return texts and ids of the special tokens of a vocabulary of Whisper's own sizes, or nothing."""
    if dims.n_vocab < _N_ENGLISH_VOCAB:
        return {}
    multilingual = dims.is_multilingual
    n_languages = 99
    if dims.n_vocab == _N_WITH_YUE or (dims.n_vocab > _N_WITH_YUE and dims.n_mels == 128):
        n_languages = 100
    names = [_END, _START, *(f"<|{code}|>" for code in LANGUAGES[:n_languages])]
    names += [_TRANSLATE, _TRANSCRIBE, _START_OF_LM, _START_OF_PREVIOUS, _NO_SPEECH[0], _NO_TIMESTAMPS]
    first = _MULTILINGUAL_END_OF_TEXT if multilingual else _ENGLISH_END_OF_TEXT
    ids = {name: first + number for number, name in enumerate(names)}
    return {**ids, **_timestamps(ids[_NO_TIMESTAMPS], dims.n_vocab)}


def _timestamps(no_timestamps: int | None, n_vocab: int) -> dict[str, int]:
    if no_timestamps is None:
        return {}
    count = min(N_TIMESTAMPS, n_vocab - no_timestamps - 1)
    return {f"<|{number * 0.02:.2f}|>": no_timestamps + 1 + number for number in range(count)}


def _stated_lists(
    metadata: Mapping[str, Any], n_vocab: int
) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None] | None:
    """Return the suppressed ids that a container states: Hugging Face's, CTranslate2's or a GGUF's."""
    for source, first, second in (
        ("gguf", "stt.whisper.suppress_tokens", "stt.whisper.begin_suppress_tokens"),
        ("generation_config", "suppress_tokens", "begin_suppress_tokens"),
        ("config", "suppress_tokens", "begin_suppress_tokens"),
        ("config", "suppress_ids", "suppress_ids_begin"),
    ):
        section = metadata.get(source)
        if isinstance(section, Mapping) and (first in section or second in section):
            return _ids(section.get(first), n_vocab), _ids(section.get(second), n_vocab)
    return None


def _ids(stated: object, n_vocab: int) -> tuple[int, ...] | None:
    if not isinstance(stated, list | tuple) or -1 in stated:
        return None  # -1 asks a runtime for its own list
    return tuple(number for number in stated if isinstance(number, int) and 0 <= number < n_vocab)


# What Whisper's decoder suppresses by default (``whisper/tokenizer.py``: non_speech_tokens): the tokens of
# annotation, alone or after a space; of musical notes, which are several tokens each, the first.
_ANNOTATION = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    "<<", ">>", "<<<", ">>>", "--", "---",
    "-(", "-[", "('", '("', "((", "))", "(((", ")))", "[[", "]]", "{{", "}}", "♪♪", "♪♪♪",
)  # fmt: skip
_NOTES = "♩♪♫♬♭♮♯"


def _not_speech(ranks: Mapping[bytes, int]) -> Iterator[int]:
    def first_tokens(texts: Iterable[str], *, whole: bool) -> Iterator[int]:
        for text in texts:
            parts = split(text.encode(), ranks)
            if parts[0] in ranks and (len(parts) == 1 or not whole):
                yield ranks[parts[0]]

    yield from first_tokens((" -", " '"), whole=False)
    yield from first_tokens((before + text for text in _ANNOTATION for before in ("", " ")), whole=True)
    yield from first_tokens((before + text for text in _NOTES for before in ("", " ")), whole=False)
