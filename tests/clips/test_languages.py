"""Languages as other projects spell them."""

import pytest

from whisq.clips.languages import spelling_of, whisper_language
from whisq.formats.special_tokens import LANGUAGES


@pytest.mark.parametrize("code", LANGUAGES)
def test_every_language_of_whispers_is_itself(code: str) -> None:
    assert whisper_language(code) == code
    assert whisper_language(code.upper()) == code


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("nb", "no"), ("nb-NO", "no"), ("nob", "no"), ("nn-NO", "nn"), ("cmn", "zh"), ("cmn_hans_cn", "zh"),
        ("zh-Hant", "zh"), ("zh_TW", "zh"), ("zh-yue", "yue"), ("yue_hant_hk", "yue"), ("iw", "he"), ("jv", "jw"),
        ("jv_id", "jw"), ("fil", "tl"), ("fil_ph", "tl"), ("en-US", "en"), ("en_us", "en"), ("es_419", "es"),
        ("in", "id"),
        ("ger", "de"), ("deu", "de"), ("German", "de"), ("chinese", "zh"), ("Haitian Creole", "ht"), ("pa-IN", "pa"),
        ("mo", "ro"), ("arb", "ar"), (" fr ", "fr"), ("sr-Latn-RS", "sr"), ("burmese", "my"), ("ekk", "et"),
    ],
)  # fmt: skip
def test_other_spellings(name: str, code: str) -> None:
    assert whisper_language(name) == code


@pytest.mark.parametrize("name", ["", "xx", "english please", "tlh", "ckb", "english-US", "deutsch", "419"])
def test_what_whisper_has_not(name: str) -> None:
    assert whisper_language(name) is None


def test_a_hint_for_it() -> None:
    assert spelling_of("germn") == "did you mean de (german)?"
    assert spelling_of("ckb").startswith("Whisper knows en zh de")
