"""A folder of real weights: what is in it, that what it claims holds, and that nobody's files are lost."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

import whisq
from tests.support.schema import checked
from whisq.cli import main
from whisq.cli.publish import _document
from whisq.errors import OutputError, PlanError
from whisq.evaluation.results_json import read_results
from whisq.formats import open_model
from whisq.publishing.run import Publication, PublicationSettings, publish
from whisq.recipe import load_recipe
from whisq.runtimes.registry import parse_runtime

TYPES = ("q8_0", "mix-compact")


def settings(**changed: object) -> PublicationSettings:
    chosen: dict[str, Any] = {"method": "ggml", "license": "mit", "threads": 1, "inside": 1, **changed}
    return PublicationSettings(base_model="openai/whisper-tiny.en", **chosen)


@pytest.fixture(scope="session")
def published(
    transcribe_cpp, whisper_cpp, tiny_en_bin: Path, clips: Path, tmp_path_factory: pytest.TempPathFactory
) -> Publication:
    folder = tmp_path_factory.mktemp("published") / "tiny.en-ggml"
    return publish(tiny_en_bin, folder, TYPES, clips, settings=settings())


def test_the_folder_has_what_people_download_and_nothing_else(published: Publication) -> None:
    names = {path.relative_to(published.folder).as_posix() for path in published.folder.rglob("*") if path.is_file()}
    models = {"ggml-tiny.en-q8_0.bin", "ggml-tiny.en-mix-compact.bin"}
    assert names == {path.relative_to(published.folder).as_posix() for path in published.files}
    assert names == models | {"README.md", "SHA256SUMS", "results.json", "report.html"} | {
        f"recipes/{Path(name).stem}.toml" for name in models
    }


def test_the_sums_are_those_of_the_files(published: Publication) -> None:
    for line in (published.folder / "SHA256SUMS").read_text().splitlines():
        found, _, name = line.partition("  ")
        assert found == hashlib.sha256((published.folder / name).read_bytes()).hexdigest()


def test_a_recipe_makes_its_file_again(published: Publication, tiny_en_bin: Path, tmp_path: Path) -> None:
    for edition in published.editions:
        recipe = load_recipe(str(published.folder / "recipes" / edition.recipe_name))
        with open_model(tiny_en_bin) as model:
            whisq.quantize(whisq.make_plan(model, recipe), tmp_path / "again.bin", threads=1)
        assert (tmp_path / "again.bin").read_bytes() == (published.folder / edition.file_name).read_bytes()


def test_every_file_loads_where_the_card_says(published: Publication, speech_wav: Path) -> None:
    from whisq.clips.audio import decode_audio

    card = (published.folder / "README.md").read_text()
    samples = decode_audio(speech_wav.read_bytes())
    for edition, plan in zip(published.editions, published.plans, strict=True):
        row = next(line for line in card.splitlines() if line.startswith(f"| [{edition.file_name}]"))
        for verdict in plan.verdicts:
            assert (verdict.runtime in row.split("|")[-2].strip().split(", ")) == verdict.loads
            runtime = parse_runtime(verdict.runtime)
            if verdict.loads and runtime.load is not None:
                heard = runtime.load(published.folder / edition.file_name, 1, False).transcribe(samples, "en")
                assert "water the plants" in heard.text


def test_the_card_is_one_that_the_hub_reads(published: Publication) -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(published.folder / "README.md")
    assert card.data.license == "mit"
    assert card.data.language == ["en"]
    assert card.data.base_model == "openai/whisper-tiny.en"
    assert card.data.to_dict()["base_model_relation"] == "quantized"
    assert card.data.pipeline_tag == "automatic-speech-recognition"
    summary = read_results(published.folder / "results.json").summaries[1]
    assert summary is not None
    assert summary.divergence is not None
    assert f"{summary.divergence.estimate:.4f}" in card.text
    assert "words wrong" in card.text
    assert re.search(r"^- (the smallest|no file|none of|divergence was)", card.text, re.MULTILINE)


def test_the_same_again_changes_nothing(published: Publication, tiny_en_bin: Path, clips: Path) -> None:
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in published.files}
    again = publish(tiny_en_bin, published.folder, TYPES, clips, settings=settings())
    after = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in again.files}
    assert [path.name for path in again.files if after[path] != before[path]] == []
    assert {"README.md", "ggml-tiny.en-q8_0.bin", "results.json"} <= set(again.reused)


def test_a_card_that_was_edited_is_not_lost(published: Publication, tiny_en_bin: Path, clips: Path) -> None:
    card = published.folder / "README.md"
    ours = card.read_text()
    card.write_text(ours + "\nMy own remarks.\n")
    try:
        with pytest.raises(OutputError, match=r"README\.md.*changed since") as caught:
            publish(tiny_en_bin, published.folder, TYPES, clips, settings=settings())
        assert "--overwrite" in str(caught.value.hint)
        assert card.read_text().endswith("My own remarks.\n")
    finally:
        publish(tiny_en_bin, published.folder, TYPES, clips, settings=settings(overwrite=True))
    assert card.read_text() == ours


def test_a_folder_with_something_else_in_it_keeps_it(tiny_en_bin: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "README.md").write_text("# my project\n")
    (folder / "ggml-tiny.en-q8_0.bin").write_text("no model at all\n")
    with pytest.raises(OutputError, match=r"ggml-tiny\.en-q8_0\.bin, README\.md"):
        publish(tiny_en_bin, folder, ["q8_0"], settings=settings())
    assert (folder / "README.md").read_text() == "# my project\n"
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "ggml-tiny.en-q8_0.bin"]
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_name_is_refused_before_anything_is_made(tiny_en_bin: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="released Whisper of other sizes"):
        publish(tiny_en_bin, tmp_path / "out", ["q8_0"], settings=settings(name="base"))
    assert not (tmp_path / "out").exists()


def test_the_command_says_what_it_made(published: Publication, tiny_en_bin: Path, clips: Path, capsys) -> None:
    words = ["publish", tiny_en_bin, published.folder, "--types", ",".join(TYPES), "--data", clips, "--method", "ggml"]
    words += ["--threads", "1", "--license", "mit", "--base-model", "openai/whisper-tiny.en"]
    assert main([str(word) for word in words]) == 0
    captured = capsys.readouterr()
    assert "from an earlier run" in captured.err
    assert re.search(r"ggml-tiny\.en-q8_0\.bin +43\.55 +0\.\d{5}", captured.out)
    assert f"wrote {published.folder}: 8 files" in captured.out
    document = {"schema": "whisq-publish", "schema_version": 1, **_document(published, None, dry_run=False)}
    assert len(checked(json.dumps(document), "publish")["files"]) == 8


@pytest.mark.parametrize("option", ["--dry-run", "--public"])
def test_what_is_about_the_hub_needs_one(tiny_en_bin: Path, tmp_path: Path, option: str, capsys) -> None:
    words = ["publish", str(tiny_en_bin), str(tmp_path / "out"), "--types", "q8_0", option]
    assert main(words) == 1
    assert "add --repo" in capsys.readouterr().err
