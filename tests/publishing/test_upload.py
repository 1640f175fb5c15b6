"""Uploading through the real client to a hub on this machine: what is sent, what is not again, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hub_uploads import UploadHub, taking_uploads
from whisq.errors import OutputError
from whisq.publishing.upload import Upload, upload

REPOSITORY = "me/small-hi-ggml"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    from huggingface_hub import constants

    with taking_uploads() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.address)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        # The store behind the hub itself (xet) takes nothing from this machine; git-lfs is the way without it.
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", "hf_test")
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n\n# small-hi\n")
    (tmp_path / "ggml-small-hi-q5_1.bin").write_bytes(b"lmgg" + bytes(1000))
    (tmp_path / "ggml-small-hi-q8_0.bin").write_bytes(b"lmgg" + bytes(2000))
    (tmp_path / "recipes" / "ggml-small-hi-q5_1.toml").write_text("[recipe]\n")
    (tmp_path / "notes.txt").write_text("nobody's business\n")
    return tmp_path


def sent(folder: Path, **options: bool) -> Upload:
    names = ["README.md", "ggml-small-hi-q5_1.bin", "ggml-small-hi-q8_0.bin", "recipes/ggml-small-hi-q5_1.toml"]
    return upload(folder, [folder / name for name in names], REPOSITORY, **options)


def test_all_files_arrive_in_a_private_repository_and_the_card_comes_last(hub: UploadHub, folder: Path) -> None:
    found = sent(folder)
    repository = hub.written[REPOSITORY]
    assert repository.private
    assert found.is_new
    assert found.is_private
    assert found.url == f"{hub.address}/{REPOSITORY}"
    assert {name: (folder / name).read_bytes() for name in found.sent} == repository.contents
    assert "notes.txt" not in repository.contents
    assert repository.commits == [
        "ggml-small-hi-q5_1.bin, by whisq",
        "ggml-small-hi-q8_0.bin, by whisq",
        "card, results and recipes, by whisq",
    ]


def test_public_is_only_what_is_asked_to_be(hub: UploadHub, folder: Path) -> None:
    assert not sent(folder, public=True).is_private
    assert not hub.written[REPOSITORY].private


def test_what_is_there_is_not_sent_again(hub: UploadHub, folder: Path) -> None:
    sent(folder)
    again = sent(folder)
    assert again.sent == ()
    assert not again.is_new
    assert len(hub.written[REPOSITORY].commits) == 3
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# small-hi, and more\n")
    (folder / "ggml-small-hi-q8_0.bin").write_bytes(b"lmgg" + bytes(1999) + b"\1")
    assert sent(folder).sent == ("README.md", "ggml-small-hi-q8_0.bin")


def test_a_broken_upload_goes_on_where_it_stopped(hub: UploadHub, folder: Path) -> None:
    hub.broken_after = 1
    with pytest.raises(OutputError, match="could not be uploaded") as caught:
        sent(folder)
    assert "goes on where it stopped" in str(caught.value.hint)
    assert set(hub.written[REPOSITORY].contents) == {"ggml-small-hi-q5_1.bin"}
    hub.broken_after = None
    assert sent(folder).there == ("ggml-small-hi-q5_1.bin",)


def test_a_dry_run_makes_and_sends_nothing(hub: UploadHub, folder: Path) -> None:
    found = sent(folder, dry_run=True)
    assert found.is_new
    assert len(found.sent) == 4
    assert not hub.written
    assert not hub.objects


def test_a_card_that_the_hub_refuses_stops_it_before_anything_is_made(hub: UploadHub, folder: Path) -> None:
    hub.refused_cards = '"license" must be one of ...'
    with pytest.raises(OutputError, match=r"does not take the card.*license") as caught:
        sent(folder)
    assert "--license" in str(caught.value.hint)
    assert not hub.written


def test_without_the_right_to_write_it_says_how_to_get_it(hub: UploadHub, folder: Path) -> None:
    hub.forbidden = True
    with pytest.raises(OutputError, match="does not let you write") as caught:
        sent(folder)
    assert "hf auth login" in str(caught.value.hint)
