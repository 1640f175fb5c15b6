"""Which files come of a list of types: their recipes, the embedding's type, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import write_bin
from tests.support.models import tiny_weights
from whisq.errors import PlanError, TypeNameError
from whisq.formats import open_model
from whisq.model import Model
from whisq.publishing.editions import Edition, editions_of
from whisq.quantization.method import GGML
from whisq.whisper import TOKEN_EMBEDDING


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Model]:
    with open_model(write_bin(tmp_path / "small-hi.bin", tiny_weights())) as opened:
        yield opened


def embedding_of(edition: Edition, model: Model) -> str:
    return edition.plan(model, GGML, None)[TOKEN_EMBEDDING].type.name


def test_a_bin_of_one_type_is_one_that_stock_whisper_cpp_loads(model: Model) -> None:
    (edition,) = editions_of(model, "small-hi", ["q5_1"], ["bin"])
    assert edition.file_name == "ggml-small-hi-q5_1.bin"
    plan = edition.plan(model, GGML, None)
    assert plan[TOKEN_EMBEDDING].type.name == "q5_1"
    assert next(verdict.runtime for verdict in plan.verdicts if verdict.loads) == "whisper.cpp"


def test_where_types_may_differ_the_embedding_is_q8_0(model: Model) -> None:
    bin_file, gguf = editions_of(model, "small-hi", ["q4_0"], ["bin", "gguf"])
    assert gguf.file_name == "whisper-small-hi-Q4_0.gguf"
    assert (embedding_of(bin_file, model), embedding_of(gguf, model)) == ("q4_0", "q8_0")
    (mix,) = editions_of(model, "small-hi", ["mix-balanced"], ["bin"])
    assert embedding_of(mix, model) == "q8_0"


def test_the_embedding_is_what_is_asked_for(model: Model) -> None:
    (edition,) = editions_of(model, "small-hi", ["mix-compact"], ["bin"], embedding="f16")
    assert embedding_of(edition, model) == "f16"


def test_a_recipe_of_ones_own_is_a_mix_of_its_name(model: Model, tmp_path: Path) -> None:
    path = tmp_path / "for phones.toml"
    path.write_text('[recipe]\ndefault = "q5_0"\nprotect = ["decoder\\\\.token_embedding\\\\.weight"]\n')
    (edition,) = editions_of(model, "small-hi", [], ["bin"], recipes=[path])
    assert edition.file_name == "ggml-small-hi-mix-for-phones.bin"
    assert embedding_of(edition, model) == "f16"


@pytest.mark.parametrize(
    ("types", "error", "says"),
    [
        ([], PlanError, "nothing to publish"),
        (["q5_1", "Q5_1"], PlanError, "named twice"),
        (["mix-best"], PlanError, "mix-best is no mix"),
        (["q5_9"], TypeNameError, "q5_9"),
    ],
)
def test_what_cannot_be_published_is_refused(model: Model, types: list[str], error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        editions_of(model, "small-hi", types, ["bin"])


def test_a_type_that_does_not_fit_is_refused_and_not_replaced(model: Model) -> None:
    (edition,) = editions_of(model, "small-hi", ["q4_K"], ["bin"])
    with pytest.raises(PlanError, match=r"do not fit|does not fit"):
        edition.plan(model, GGML, None)


def test_a_file_that_no_runtime_loads_is_refused(model: Model) -> None:
    (edition,) = editions_of(model, "small-hi", ["iq4_nl"], ["gguf"])
    with pytest.raises(PlanError, match="no runtime would load it") as caught:
        edition.plan(model, GGML, None)
    assert "--types" in str(caught.value.hint)
