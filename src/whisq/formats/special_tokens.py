"""Which token ids steer a Whisper decoder, and which it must not emit.

Hugging Face names each of them; a ``.bin`` names none, and loaders count them off from the vocabulary's size. Here
names win. What nothing names is counted off as whisper.cpp does (``whisper_vocab`` and its loader) for Whisper's own
three sizes; a larger vocabulary is taken for one of those with tokens added behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from whisq.errors import DataError
from whisq.formats.agreement import LANGUAGE
from whisq.formats.byte_pairs import split
from whisq.model import Model
from whisq.whisper import Dimensions

LANGUAGES = tuple(
    (
        "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th ur hr bg lt la "
        "mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr pa si km sn yo so af oc ka be "
        "tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt haw ln ha ba jw su yue "
    ).split()
)
"""Language codes in the order of their tokens; ``yue`` came with large-v3."""

N_TIMESTAMPS = 1501
"""Tokens for 0 to 30 s in steps of 20 ms; they end Whisper's own vocabulary."""

Task = Literal["transcribe", "translate"]
_Name = Literal["end", "start", "translate", "transcribe", "previous", "no_timestamps", "timestamps_begin"]

_ENGLISH_END_OF_TEXT, _MULTILINGUAL_END_OF_TEXT = 50256, 50257
_N_ENGLISH_VOCAB, _N_SMALLEST_MULTILINGUAL = 51864, 51865
_N_WITH_YUE = 51866
_END, _START = "<|endoftext|>", "<|startoftranscript|>"
_TRANSLATE, _TRANSCRIBE, _START_OF_LM = "<|translate|>", "<|transcribe|>", "<|startoflm|>"
_START_OF_PREVIOUS, _NO_TIMESTAMPS = "<|startofprev|>", "<|notimestamps|>"
_NO_SPEECH = ("<|nospeech|>", "<|nocaptions|>")
_TEXT_OF: dict[_Name, str] = {
    "end": _END, "start": _START, "translate": _TRANSLATE, "transcribe": _TRANSCRIBE, "previous": _START_OF_PREVIOUS,
    "no_timestamps": _NO_TIMESTAMPS, "timestamps_begin": "<|0.00|>",
}  # fmt: skip

# What Whisper's decoder suppresses by default (``whisper/tokenizer.py``: non_speech_tokens): the tokens of
# annotation, alone or after a space; of musical notes, which are several tokens each, the first.
_ANNOTATION = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *"<< >> <<< >>> -- --- -( -[ (' (\" (( )) ((( ))) [[ ]] {{ }} ♪♪ ♪♪♪".split(),
)
_NOTES = "♩♪♫♬♭♮♯"


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """Ids by meaning; None where the vocabulary has no such token.

    ``languages`` maps codes (``en``) to ids and is empty for an English-only model. ``timestamps_begin`` is the token
    of 0.00 s. ``texts`` has the text of every id from the first special token on that is known by name or by count.
    ``suppress`` are never emitted, ``begin_suppress`` not as the first token. ``path`` is the model's, for messages.
    """

    path: Path = field(compare=False)
    end: int | None
    start: int | None
    translate: int | None
    transcribe: int | None
    previous: int | None
    no_speech: int | None
    no_timestamps: int | None
    timestamps_begin: int | None
    languages: Mapping[str, int]
    texts: Mapping[int, str]
    suppress: tuple[int, ...]
    begin_suppress: tuple[int, ...]

    def required(self, name: _Name) -> int:
        """Return the id in one of the fields; raises ``DataError`` where the vocabulary has no such token."""
        number: int | None = getattr(self, name)
        if number is None:
            raise DataError(
                f"{self.path}: the vocabulary has no token {_TEXT_OF[name]}",
                hint="copy the tokenizer from the model that this one was trained from, and convert it again",
            )
        return number

    def prompt(self, language: str | None = None, *, timestamps: bool = False, task: Task = "transcribe") -> list[int]:
        """Return the tokens that a decoder is given before it writes.

        A multilingual model gets ``language``, a code, English where it is None. An English-only one has no tokens
        for languages and tasks: it takes no language but English and transcribes. Raises ``DataError`` for a language
        or a task that the model does not have, and where the vocabulary lacks a token.
        """
        ids = [self.required("start")]
        if self.languages:
            ids += [self._language(language or "en"), self.required(task)]
        elif language not in (None, "en") or task != "transcribe":
            asked = f"no language {language!r}" if language not in (None, "en") else "no translation"
            raise DataError(
                f"{self.path}: an English-only model has {asked}",
                hint="name a multilingual model, or ask for a transcription in English",
            )
        return ids if timestamps else [*ids, self.required("no_timestamps")]

    def _language(self, code: str) -> int:
        number = self.languages.get(code)
        if number is None:
            raise DataError(
                f"{self.path}: the vocabulary has no language {code!r}: there is no token <|{code}|>",
                hint=f"use one of: {' '.join(self.languages)}",
            )
        return number


def special_tokens(model: Model) -> SpecialTokens:
    """Return a model's special tokens: what its container says, the rest counted off."""
    ids = _ids_by_text(model)
    no_speech = next((ids[text] for text in _NO_SPEECH if text in ids), None)
    suppress, begin_suppress = _suppressed(model, ids, no_speech)
    return SpecialTokens(
        path=model.path,
        end=ids.get(_END),
        start=ids.get(_START),
        translate=ids.get(_TRANSLATE),
        transcribe=ids.get(_TRANSCRIBE),
        previous=ids.get(_START_OF_PREVIOUS),
        no_speech=no_speech,
        no_timestamps=ids.get(_NO_TIMESTAMPS),
        timestamps_begin=ids.get(_TEXT_OF["timestamps_begin"]),
        languages=_languages(model, ids),
        texts={number: text for text, number in ids.items()},
        suppress=suppress,
        begin_suppress=begin_suppress,
    )


def languages_of(model: Model) -> dict[str, int]:
    """Return the ids of a model's language tokens by code, as ``special_tokens`` does, in a fraction of its time."""
    return _languages(model, _ids_by_text(model))


def _ids_by_text(model: Model) -> dict[str, int]:
    named = {text: number for text, number in model.tokenizer.special.items() if 0 <= number < model.dims.n_vocab}
    if _START not in named:
        return _counted(model.dims)
    # A vocabulary that names its tokens names all that it has: only timestamps are left to be counted.
    return {**_timestamps(named.get(_NO_TIMESTAMPS), model.dims.n_vocab), **named}


def _languages(model: Model, ids: Mapping[str, int]) -> dict[str, int]:
    """Return ids by code in the order of ids, nothing for an English-only model."""
    stated = model.metadata.get("generation_config", {}).get("lang_to_id")
    listed = model.metadata.get("gguf", {}).get("general.languages", ())
    named = {f"<|{code}|>" for code in (*LANGUAGES, *(listed if isinstance(listed, tuple) else ()))}
    named |= set(stated) if isinstance(stated, Mapping) else set()
    found = {text[2:-2]: number for text, number in ids.items() if text in named or LANGUAGE.fullmatch(text)}
    if not _knows_languages(model, ids, found):
        return {}
    return dict(sorted(found.items(), key=lambda item: item[1]))


def _suppressed(model: Model, ids: Mapping[str, int], no_speech: int | None) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what is never emitted and what not first: as the container says, else as Whisper's decoder has it."""
    suppress, begin = _stated_lists(model.metadata, model.dims.n_vocab)
    ranks = {token: number for number, token in reversed(list(enumerate(model.tokenizer.tokens)))}
    if suppress is None:
        control = [ids.get(t) for t in (_START, _TRANSLATE, _TRANSCRIBE, _START_OF_LM, _START_OF_PREVIOUS)]
        control.append(no_speech)
        suppress = tuple(sorted({*_not_speech(ranks), *(number for number in control if number is not None)}))
    if begin is None:
        begin = tuple(number for number in (ranks.get(b" "), ids.get(_END)) if number is not None)
    return suppress, begin


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


def _knows_languages(model: Model, ids: Mapping[str, int], languages: Mapping[str, int]) -> bool:
    # The English vocabulary names language tokens too, which its models were never trained with.
    stated = model.metadata.get("generation_config", {}).get("is_multilingual")
    if isinstance(stated, bool):
        return stated
    gguf = model.metadata.get("gguf", {}).get("stt.capability.lang_detect")
    if isinstance(gguf, bool):
        return gguf
    n_vocab = model.dims.n_vocab
    if n_vocab < _N_ENGLISH_VOCAB:
        return len(languages) > 1
    # An English vocabulary to which a fine-tune added a token has as many as the multilingual one.
    return n_vocab >= _N_SMALLEST_MULTILINGUAL and ids.get(_END) != _ENGLISH_END_OF_TEXT


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


def _stated_lists(metadata: Mapping[str, Any], n_vocab: int) -> tuple[tuple[int, ...] | None, tuple[int, ...] | None]:
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
    return None, None


def _ids(stated: object, n_vocab: int) -> tuple[int, ...] | None:
    if not isinstance(stated, list | tuple) or -1 in stated:
        return None  # -1 asks a runtime for its own list
    return tuple(number for number in stated if isinstance(number, int) and 0 <= number < n_vocab)


def _not_speech(ranks: Mapping[bytes, int]) -> Iterator[int]:
    def first_tokens(texts: Iterable[str], *, whole: bool) -> Iterator[int]:
        for text in texts:
            parts = split(text.encode(), ranks)
            if parts[0] in ranks and (len(parts) == 1 or not whole):
                yield ranks[parts[0]]

    yield from first_tokens((" -", " '"), whole=False)
    yield from first_tokens((before + text for text in _ANNOTATION for before in ("", " ")), whole=True)
    yield from first_tokens((before + text for text in _NOTES for before in ("", " ")), whole=False)
