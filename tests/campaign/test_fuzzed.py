"""The fuzzing part is able to find something, and every reader takes what is sound."""

from pathlib import Path
from random import Random

import pytest

from tests.campaign import fuzz, fuzzed
from tests.campaign.readers import READERS, Reader, outcome
from whisq.errors import FormatError


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_its_seeds_and_some_mutations(name: str, tmp_path: Path) -> None:
    reader = READERS[name](tmp_path)
    random = Random(1)
    for seed in reader.seeds:
        reader.read(seed)
        assert outcome(reader, fuzz.mutated(seed, random)) is None
    assert reader.seeds


def test_what_a_reader_does_wrong_is_counted_once_by_its_place(tmp_path: Path) -> None:
    def read(content: bytes) -> None:
        if content[:1] == b"E":
            raise FormatError("said as it should be", hint="and what to do")
        if content[:1] == b"K":
            raise KeyError(len(content))

    record = fuzz.Record(tmp_path, guided=False, most=1 << 30)
    once = fuzz._timed(record, lambda content: outcome(Reader((), read), content))
    for content in (b"sound", b"Error", b"Key", b"Key again"):
        once(content)
    record.write()
    assert record.n_inputs == 4
    assert list(record.failures) == ["KeyError in nowhere"]
    assert (tmp_path / record.failures["KeyError in nowhere"]["input"]).read_bytes() == b"Key"
    record.count(b"slow", None, fuzz.MOST_SECONDS + 1)
    assert "TimeoutError in nowhere" in record.failures


def test_an_error_without_a_word_is_wrong() -> None:
    def read(content: bytes) -> None:
        raise FormatError("")

    assert isinstance(outcome(Reader((), read), b""), FormatError)


def test_a_process_fuzzes_and_says_how_to_do_it_again(tmp_path: Path) -> None:
    told = list(fuzzed.fuzz("rule-text", tmp_path / "rules", seed=3, runs=50))
    assert len(told) >= 50
    assert set(told) == {None}
    (wrong,) = fuzzed.fuzz("no-such-reader", tmp_path / "none", seed=3, runs=5)
    assert wrong is not None
    assert "the process ended with 1" in wrong
    assert "again: python -m tests.campaign.fuzz no-such-reader" in wrong


def test_mutations_are_the_same_for_the_same_seed() -> None:
    for content in (b"", b"short", b'{"a": [1, 2, {"b": null}]}', bytes(range(256)) * 20):
        assert [fuzz.mutated(content, Random(n)) for n in range(30)] == [
            fuzz.mutated(content, Random(n)) for n in range(30)
        ]
