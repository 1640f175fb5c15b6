"""Which of a table's columns holds what."""

import pytest

from whisq.clips.columns import ARROW_AUDIO_COLUMNS, AUDIO_COLUMNS, TEXT_COLUMNS, pick_column


@pytest.mark.parametrize(
    ("columns", "wanted", "found"),
    [
        (["audio", "path"], AUDIO_COLUMNS, "path"),
        (["path", "audio"], ARROW_AUDIO_COLUMNS, "audio"),
        (["normalized_text", "sentence", "text"], TEXT_COLUMNS, "text"),
        (["id", " Sentence "], TEXT_COLUMNS, " Sentence "),
        (["id", ""], TEXT_COLUMNS, None),
    ],
)
def test_the_first_wanted_column_that_is_there_as_it_is_spelt(columns, wanted, found) -> None:
    assert pick_column(columns, wanted) == found
