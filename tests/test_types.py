"""The table of types, held against the gguf package."""

import gguf
import pytest

from whisq.errors import TypeNameError
from whisq.types import TYPES, Fallback, fallback_for, parse_type, type_from_ggml


@pytest.mark.parametrize("kind", TYPES.values(), ids=str)
def test_numbers_are_ggufs(kind):
    theirs = gguf.GGMLQuantizationType[kind.name.upper()]
    assert kind.ggml_type == theirs.value
    assert (kind.block_size, kind.block_bytes) == gguf.GGML_QUANT_SIZES[theirs]
    assert type_from_ggml(kind.ggml_type) is kind


@pytest.mark.parametrize(
    ("ftype", "name"),
    [
        (0, "ALL_F32"),
        (1, "MOSTLY_F16"),
        (2, "MOSTLY_Q4_0"),
        (3, "MOSTLY_Q4_1"),
        (7, "MOSTLY_Q8_0"),
        (8, "MOSTLY_Q5_0"),
        (9, "MOSTLY_Q5_1"),
        (10, "MOSTLY_Q2_K"),
    ],
)
def test_ftypes_that_both_number_alike(ftype, name):
    assert parse_type(ftype).ggml_ftype == gguf.LlamaFileType[name].value


@pytest.mark.parametrize("kind", TYPES.values(), ids=str)
def test_file_types_are_ggufs_of_that_name(kind):
    for number in (kind.llama_ftype, kind.llama_ftype_of_a_mix):
        name = gguf.LlamaFileType(number).name
        assert name.removeprefix("MOSTLY_").removeprefix("ALL_").startswith(kind.name.upper())


@pytest.mark.parametrize("text", ["q4_k", "Q4_K", " q4_K ", "12"])
def test_any_case_and_numbers(text):
    assert parse_type(text) is TYPES["q4_K"]


@pytest.mark.parametrize("text", ["q9", "4", "-1", "", "q4"])
def test_unknown_types_list_the_known(text):
    with pytest.raises(TypeNameError) as caught:
        parse_type(text)
    assert "q4_0" in caught.value.hint


def test_fallbacks_fit_and_are_at_least_as_precise():
    for kind in TYPES.values():
        for columns in (32, 64, 384, 256):
            got = fallback_for(kind, columns)
            assert got.fits(columns)
            assert got.precision_db >= min(kind.precision_db, TYPES["f16"].precision_db)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("f32", "f16"),
        ("f16", "f16"),
        ("bf16", "f16"),
        ("q4_0", "q4_0"),
        ("q4_1", "q4_1"),
        ("q5_0", "q5_0"),
        ("q5_1", "q5_1"),
        ("q8_0", "q8_0"),
        ("q2_K", "q4_0"),
        ("q3_K", "q4_0"),
        ("q4_K", "q5_0"),
        ("q5_K", "q8_0"),
        ("q6_K", "q8_0"),
        ("iq4_nl", "iq4_nl"),
        ("iq4_xs", "iq4_nl"),
    ],
)
def test_fallbacks_by_hand(asked, found):
    # A new type must not change them: rows of 384 fit blocks of 32 alone, rows of 100 no blocks.
    assert fallback_for(TYPES[asked], 384).name == found
    assert fallback_for(TYPES[asked], 100).name == "f16"


def test_a_type_that_stands_in_for_its_family_is_not_offered_to_another():
    for kind in TYPES.values():
        for asked in TYPES.values():
            if kind.fallback is Fallback.FOR_ITS_FAMILY:
                assert kind.may_stand_in_for(asked) == (kind.family == asked.family)
            if kind.fallback is Fallback.FOR_NONE:
                assert not kind.may_stand_in_for(asked)
