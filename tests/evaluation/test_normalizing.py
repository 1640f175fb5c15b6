"""Scores of every kind of script, with edits that were counted by hand."""

import pytest

from whisq.evaluation.normalizing import normalize
from whisq.evaluation.scoring import count_edits

COUNTED = [
    # language, said, written, words, wrong words, characters, wrong characters
    ("en", "It's twenty-two dollars.", "it is $22", 3, 0, 9, 0),
    ("de", "Größe und Straße", "Grösse und Straße", 3, 1, 16, 2),
    ("fr", "l'été à Noël", "l'ete à Noël", 4, 1, 12, 2),
    ("vi", "Tiếng Việt", "Tiêng Việt", 2, 1, 10, 1),
    ("zh", "今天天气很好。", "今天天汽很好", 6, 1, 6, 1),
    ("zh", "我 有 两本书", "我有两本书", 5, 0, 5, 0),
    ("yue", "你食咗飯未呀?", "你食左飯未呀", 6, 1, 6, 1),
    ("ja", "東京は日本の首都", "東京わ日本の首都", 8, 1, 8, 1),
    ("ja", "ｶﾞｽが１２本", "ガスが12本", 6, 0, 6, 0),
    ("ko", "안녕하세요 여러분", "안녕하세오 여러분", 2, 1, 9, 1),
    ("th", "น้ำ", "นำ", 1, 1, 3, 1),
    ("th", "ไป กิน ข้าว", "ไปกินข้าว", 7, 0, 9, 0),
    ("lo", "ນ້ຳ", "ນຳ", 1, 1, 3, 1),
    ("my", "မြန်မာ", "မြန်မ", 4, 1, 6, 1),
    ("km", "ខ្មែរ", "ខ្មែ", 2, 1, 5, 1),
    ("bo", "བོད་ཡིག", "བོད་ཡག", 4, 1, 6, 1),
    ("hi", "वह की किताब", "वह का किताब", 3, 1, 11, 1),
    ("hi", "हिन्दी में बात करते हैं", "हिन्दी में रात करते हैं", 5, 1, 23, 1),
    ("bn", "আমার নাম", "আমর নাম", 2, 1, 8, 1),
    ("ta", "தமிழ் மொழி", "தமிழ் மொழ", 2, 1, 10, 1),
    ("te", "తెలుగు భాష", "తెలుగ భాష", 2, 1, 10, 1),
    ("ml", "മലയാളം", "മലയളം", 1, 1, 6, 1),
    ("kn", "ಕನ್ನಡ", "ಕನಡ", 1, 1, 5, 2),
    ("gu", "ગુજરાતી", "ગુજરતી", 1, 1, 7, 1),
    ("pa", "ਪੰਜਾਬੀ", "ਪਜਾਬੀ", 1, 1, 6, 1),
    ("si", "සිංහල", "සිහල", 1, 1, 5, 1),
    ("ne", "नेपाल १९९०", "नेपाल 1990", 2, 0, 10, 0),
    ("ar", "مُحَمَّدٌ رَسُولُ", "محمد رسول", 2, 0, 9, 0),
    ("ar", "كـتـاب جديد", "كتاب جديدة", 2, 1, 9, 1),
    ("ar", "آمن ١٩٩٠", "امن 1990", 2, 1, 8, 1),
    ("fa", "می\u200cخواهم ۱۲", "میخواهم 12", 2, 0, 10, 0),
    ("ur", "اُردو", "اردو", 1, 0, 4, 0),
    ("he", "שָׁלוֹם עולם", "שלום עולם", 2, 0, 9, 0),
    ("he", "\ufb2aלום", "שלום", 1, 0, 4, 0),
    ("yi", "ייִדיש", "יידיש", 1, 0, 5, 0),
    ("tr", "İstanbul'da IĞDIR", "istanbul'da ığdır", 3, 0, 17, 0),
    ("tr", "ISIRGAN", "isirgan", 1, 1, 7, 2),
    ("az", "İLK", "ilk", 1, 0, 3, 0),
    ("de", "İzmir", "izmir", 1, 0, 5, 0),
    ("no", "10 000 kroner på A\u030aros", "10.000 kroner på Åros", 4, 0, 20, 0),
    ("no", "blåbær og fløte", "blabær og flote", 3, 2, 15, 2),
    ("ru", "ещё раз", "еще раз", 2, 1, 7, 1),
    ("el", "Αθήνα", "Αθηνα", 1, 1, 5, 1),
    ("yo", "ẹ̀kọ́", "ẹkọ", 1, 1, 5, 2),
    ("ka", "ᲥᲐᲠᲗᲣᲚᲘ", "ქართული", 1, 0, 7, 0),
    ("es", "¡Hola\u00ad! 😀\ufe0f", "hola", 1, 0, 4, 0),
]


@pytest.mark.parametrize(("language", "said", "written", "words", "wrong", "characters", "wrong_characters"), COUNTED)
def test_edits_are_those_counted_by_hand(
    language: str, said: str, written: str, words: int, wrong: int, characters: int, wrong_characters: int
) -> None:
    edits = count_edits(said, written, language)
    assert (edits.words, edits.word_edits) == (words, wrong)
    assert (edits.characters, edits.character_edits) == (characters, wrong_characters)


@pytest.mark.parametrize(("language", "said", "written", "words", "wrong", "characters", "wrong_characters"), COUNTED)
def test_normalizing_twice_changes_nothing(
    language: str, said: str, written: str, words: int, wrong: int, characters: int, wrong_characters: int
) -> None:
    once = normalize(said, language)
    assert normalize(once, language) == once


def test_numbers_in_groups_are_one_number_and_others_are_not() -> None:
    assert normalize("1,234,567 and 12 34", "fr") == "1234567 and 12 34"
    assert normalize("1234 567", "fr") == "1234 567"
