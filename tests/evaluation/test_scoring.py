"""Edit counts: jiwer's, with loops told apart."""

import jiwer
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whisq.evaluation.normalizing import normalize
from whisq.evaluation.scoring import count_edits, repeated_marks, repeated_words

WORDS = st.lists(st.sampled_from(["so", "my", "fellow", "americans", "ask", "not", "colour"]), max_size=25).map(
    " ".join
)


@given(st.lists(st.tuples(WORDS.filter(bool), WORDS), min_size=1, max_size=5))
def test_rates_equal_jiwers_on_the_same_texts(pairs: list[tuple[str, str]]) -> None:
    counted = [count_edits(said, written, "en") for said, written in pairs]
    said = [normalize(text, "en") for text, _ in pairs]
    written = [normalize(text, "en") for _, text in pairs]
    ours = sum(edits.word_edits for edits in counted) / sum(edits.words for edits in counted)
    assert ours == pytest.approx(jiwer.wer(said, written))
    characters = sum(e.character_edits for e in counted) / sum(e.characters for e in counted)
    assert characters == pytest.approx(jiwer.cer(said, written))
    words = jiwer.process_words(said, written)
    assert sum(e.substitutions for e in counted) == words.substitutions
    assert sum(e.deletions for e in counted) == words.deletions
    assert sum(e.insertions + e.runaway for e in counted) == words.insertions


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        (
            "Mr. Smith's twenty-five dogs, um, don't colour [noise]",
            "en",
            "mister smith is 25 dogs do not color",
        ),
        ("Größe, ¿cómo?", "de", "größe cómo"),
        ("今日は", "ja", "今 日 は"),
    ],
)
def test_normalizer_is_whispers(text: str, language: str, expected: str) -> None:
    assert normalize(text, language) == expected


@pytest.mark.parametrize(
    ("written", "runaway"),
    [
        ("ask not what your country can do", 0),
        ("ask not what your country can do " + "can do " * 10, 20),
        ("ask not what your country can do " + "for you and me " * 2, 0),
        ("ask not what your country can do thank you thank you thank you thank you", 6),
        ("ask not what your country can do no no no", 0),
    ],
)
def test_runaway_repetition_is_counted_apart(written: str, runaway: int) -> None:
    edits = count_edits("ask not what your country can do", written, "en")
    assert edits.runaway == runaway
    assert edits.word_edits == len(written.split()) - 7


def test_a_chant_that_was_said_is_no_runaway() -> None:
    chant = "row your boat " * 5
    assert count_edits(chant, chant, "en").word_edits == 0


def test_repeated_words_leaves_the_first_copy() -> None:
    assert repeated_words(["x", "a", "b", "a", "b", "a", "b", "y"]) == {3, 4, 5, 6}
    assert repeated_words([]) == set()


@pytest.mark.parametrize(
    ("written", "marks"),
    [
        ("He said that. And then? Nothing...", 0),
        ("U.S.A. and e.g. 1.2.3.4.5.6.7.8", 0),
        ("नमस्ते, आप कैसे हैं? मैं ठीक हूँ।", 0),
        ("......", 5),
        ("and so on. . . . . . . .", 7),
        ("and so on ?!?!?!?!", 6),
        ("♪ ♪ ♪ ♪ ♪ ♪ words ♪ ♪", 5),
        ("-- -- -- text -- -- --", 10),
    ],
)
def test_marks_written_over_and_over_are_counted(written: str, marks: int) -> None:
    assert repeated_marks(written) == marks


def test_words_written_where_nothing_was_said_are_counted_apart() -> None:
    edits = count_edits("", "Thank you for watching!", "en")
    assert edits.invented == 4
    assert (edits.words, edits.word_edits, edits.characters, edits.character_edits) == (0, 0, 0, 0)
    assert count_edits("", " ", "en").invented == 0
    assert count_edits("one", "one two", "en").invented == 0
