"""Data that cannot be measured on: each kind is named, and the documentation's table is that of this list."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.support.doc_tables import table, table_in
from whisq.clips.audio import SAMPLE_RATE
from whisq.clips.datasets import load_clips
from whisq.errors import DataError
from whisq.evaluation.preparing import _fit_to_models
from whisq.evaluation.run import EvaluationSettings


@dataclass(frozen=True)
class Wrong:
    """What is wrong and what to do, as the documentation has it; how it is written; what is said."""

    what: str
    do: str
    write: Callable[[Path], Path]
    said: str


def manifest(content: str, *, audio: bool = True) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        if audio:
            soundfile.write(folder / "a.wav", 0.1 * np.sin(np.arange(SAMPLE_RATE) * 0.2), SAMPLE_RATE)
        (folder / "m.csv").write_text(content)
        return folder / "m.csv"

    return write


def segment_beyond(folder: Path) -> Path:
    manifest("path,text\n")(folder)
    row = {"audio_filepath": "a.wav", "text": "x", "offset": 0.5, "duration": 2}
    (folder / "m.json").write_text(json.dumps(row))
    return folder / "m.json"


def two_splits(folder: Path) -> Path:
    for split in ("test", "train"):
        (folder / split).mkdir()
        manifest("file_name,text\na.wav,hello\n")(folder / split)
        (folder / split / "m.csv").rename(folder / split / "metadata.csv")
    return folder


def audio_alone(folder: Path) -> Path:
    manifest("")(folder).unlink()
    return folder


PROBLEMS = [
    Wrong(
        "a row with more cells than the header: a text with a comma",
        'write the text in "quotes"',
        manifest("path,text\na.wav,one, two\n"),
        'line 2: 3 cells, the header has 2: write a text that has a comma in "quotes"',
    ),
    Wrong(
        "an entry without a text, or a transcript without audio",
        "complete it",
        manifest("path,text\n,one\n"),
        "no audio path",
    ),
    Wrong(
        "audio that is missing, not audio, too short, or not as long as its segment",
        "mend it",
        manifest("path,text\na.wav,one\n", audio=False),
        "a.wav: audio missing",
    ),
    Wrong(
        "audio that is missing, not audio, too short, or not as long as its segment",
        "mend it",
        segment_beyond,
        "its part from 0.50 to 2.50 s is not in it",
    ),
    Wrong(
        "a start and an end that are not seconds, or in the wrong order",
        "correct them, or rename the columns if they mean something else",
        manifest("path,text,start,end\na.wav,one,2,1\n"),
        "line 2: end is '1', expected seconds after start",
    ),
    Wrong(
        "a language that Whisper, or one of the models, does not have",
        "correct the code, or leave those clips out",
        manifest("path,text,language\na.wav,one,tlh\n"),
        "Whisper has no language 'tlh'",
    ),
    Wrong(
        "a text of which nothing is left to score",
        "correct it",
        manifest("path,text\na.wav,!?\n"),
        "nothing is left of its text",
    ),
    Wrong(
        "several splits in one folder",
        "name the split's own folder or file",
        two_splits,
        "holds the splits test, train",
    ),
    Wrong(
        "audio without any text",
        "evaluate needs texts; `whisq calibrate` takes audio alone",
        audio_alone,
        "no two of the same name",
    ),
]


@pytest.mark.parametrize("wrong", PROBLEMS, ids=lambda wrong: wrong.what)
def test_what_is_wrong_is_said(tmp_path: Path, wrong: Wrong) -> None:
    given = wrong.write(tmp_path)
    with pytest.raises(DataError) as caught:
        _fit_to_models(load_clips(given), [], EvaluationSettings())
    assert wrong.said in str(caught.value)


def test_the_documentation_lists_what_is_wrong() -> None:
    header = ("what is wrong", "what to do")
    assert table_in("evaluation.md", header) == table(header, [(wrong.what, wrong.do) for wrong in PROBLEMS])
