"""Whether a tokenizer is that of the weights beside it: configurations state ids, a tokenizer has them by name.

Whisper's vocabularies differ by a token or two, so that with the wrong one every special token is off by one: a runtime
then starts at a language and loops.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

from whisq.errors import FormatError
from whisq.formats.vocabulary import END_OF_TEXT, ids_of
from whisq.model import Tokenizer
from whisq.whisper import Dimensions

_TEXT_OF = {
    "decoder_start_token_id": "<|startoftranscript|>",
    "eos_token_id": END_OF_TEXT,
    "no_timestamps_token_id": "<|notimestamps|>",
    "prev_sot_token_id": "<|startofprev|>",
}
_NEEDED = (END_OF_TEXT, "<|startoftranscript|>", "<|notimestamps|>", "<|30.00|>")
LANGUAGE = re.compile(r"<\|[a-z]{2,3}\|>")
"""The token of a language, Whisper's or a fine-tune's own."""
_COUNTED = {
    51864: {END_OF_TEXT: 50256, "<|startoftranscript|>": 50257, "<|notimestamps|>": 50362},
    51865: {END_OF_TEXT: 50257, "<|startoftranscript|>": 50258, "<|notimestamps|>": 50363},
    51866: {END_OF_TEXT: 50257, "<|startoftranscript|>": 50258, "<|notimestamps|>": 50364},
}
"""Ids in Whisper's own vocabularies, by their rows."""
_SHOWN = 3


def check_agreement(
    path: Path, tokenizer: Tokenizer, dims: Dimensions, stated: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise ``FormatError`` where a tokenizer has other ids than configurations state, or than there are rows.

    ``stated`` are configurations by the name of their file; an id that one of them does not state is not asked about.
    Where none states any, the ids must be those of Whisper's own vocabulary with so many rows, if there is one and the
    tokenizer does not name a token for the last row: then it is that of a fine-tune with tokens of its own.
    """
    ids = ids_of(tokenizer)
    found = [
        f"{text} is {ids[text]} in the tokenizer and {number} in {file}"
        for file, section in stated.items()
        for text, number in _stated_ids(section)
        if text in ids and ids[text] != number
    ]
    names = {number: text for text, number in ids.items()}
    found += [
        f"{number} is a language in {file} and {names[number]} in the tokenizer"
        for file, section in stated.items()
        for number in _listed(section.get("lang_ids"))
        if number in names and not LANGUAGE.fullmatch(names[number])
    ]
    beyond = [
        f"{text} is {ids[text]} in the tokenizer, and the embedding has {dims.n_vocab} rows"
        for text in _NEEDED
        if ids.get(text, 0) >= dims.n_vocab
    ]
    unlike = [*found, *beyond]
    hint = "copy tokenizer.json from where the weights came from, or from the model that they were trained from"
    fills_the_rows = max((len(tokenizer.tokens) - 1, *ids.values())) == dims.n_vocab - 1
    if not fills_the_rows and not any(True for section in stated.values() for _ in _stated_ids(section)):
        counted = [
            f"{text} is {ids[text]} in the tokenizer and {number} in a Whisper of {dims.n_vocab} rows"
            for text, number in _COUNTED.get(dims.n_vocab, {}).items()
            if ids.get(text, number) != number
        ]
        if counted and not unlike:
            hint += (
                "; of a fine-tune with tokens of its own, put its config.json and generation_config.json beside them"
            )
        unlike += counted
    if unlike:
        more = f" (and {len(unlike) - _SHOWN} more)" if len(unlike) > _SHOWN else ""
        raise FormatError(
            f"{path}: the tokenizer is of another Whisper than the weights: {'; '.join(unlike[:_SHOWN])}{more}",
            hint=hint,
        )


def _stated_ids(section: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Yield texts and ids that a configuration states."""
    for key, text in _TEXT_OF.items():
        number = section.get(key)
        if isinstance(number, list) and len(number) == 1:
            number = number[0]
        if _is_id(number):
            yield text, number
    for key, form in (("lang_to_id", "{}"), ("task_to_id", "<|{}|>")):
        listed = section.get(key)
        if isinstance(listed, Mapping):
            yield from ((form.format(name), number) for name, number in listed.items() if _is_id(number))


def _listed(numbers: object) -> Iterator[int]:
    return (number for number in numbers if _is_id(number)) if isinstance(numbers, list) else iter(())


def _is_id(number: object) -> TypeGuard[int]:
    return isinstance(number, int) and not isinstance(number, bool)
