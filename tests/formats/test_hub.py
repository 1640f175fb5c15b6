"""Models by their id, from a hub on this machine through the real client: fetched, cached, or refused with reason."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.containers import write_bin, write_ctranslate2, write_huggingface
from tests.support.hub_server import COMMIT, Hub, serving
from tests.support.models import tiny_weights
from whisq.cli import main
from whisq.errors import FormatError
from whisq.formats import open_model
from whisq.formats.hub import id_at, looks_like_id
from whisq.formats.released import released_id


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    from huggingface_hub import constants

    with serving() as server:
        at(monkeypatch, server.address)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield server


def at(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """Point the client somewhere; it reads HF_ENDPOINT once, when it is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")


def refused(name: str) -> tuple[str, str]:
    with pytest.raises(FormatError) as caught:
        open_model(name)
    return str(caught.value), str(caught.value.hint)


def test_a_model_is_fetched_and_opened(hub: Hub, tmp_path: Path) -> None:
    weights = tiny_weights()
    hub.repositories["me/whisper-own"] = write_huggingface(tmp_path / "repository", weights)
    (tmp_path / "repository" / "flax_model.msgpack").write_bytes(b"not needed")
    with open_model("me/whisper-own") as model:
        assert model.format == "huggingface"
        for tensor in model.tensors:
            assert bytes(model.rows(tensor)) == weights.arrays[tensor.name].tobytes()
        assert model.metadata["hub"]["repo_url"] == "https://huggingface.co/me/whisper-own"
    assert set(hub.fetched) == {"config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors"}


def test_the_second_time_nothing_is_fetched(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["me/whisper-own"] = write_huggingface(tmp_path / "repository", tiny_weights())
    open_model("me/whisper-own").close()
    hub.fetched.clear()
    open_model("me/whisper-own").close()
    assert hub.fetched == []
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    open_model("me/whisper-own").close()


def test_shards_are_fetched(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["me/sharded"] = write_huggingface(tmp_path / "repository", tiny_weights(), shards=3)
    with open_model("me/sharded") as model:
        assert len(model.files) == 3


def test_a_ctranslate2_repository(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["me/faster"] = write_ctranslate2(tmp_path / "repository", tiny_weights())
    with open_model("me/faster") as model:
        assert model.format == "ctranslate2"


def test_one_file_of_a_repository_at_a_revision(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "repository" / "ggml").mkdir(parents=True)
    write_bin(tmp_path / "repository" / "ggml" / "model.bin", tiny_weights())
    hub.repositories["me/ggml"] = tmp_path / "repository"
    with open_model(f"me/ggml/ggml/model.bin@{COMMIT}") as model:
        assert model.format == "bin"
    assert hub.fetched == ["ggml/model.bin"]


def test_convert_and_quantize_in_one_step(hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hub.repositories["me/whisper-own"] = write_huggingface(tmp_path / "repository", tiny_weights())
    assert main(["quantize", "me/whisper-own", str(tmp_path / "a.gguf"), "--recipe", "balanced"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "a.gguf"), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["variant"] == "whisper-own"
    assert document["provenance"]["general.repo_url"] == "https://huggingface.co/me/whisper-own"


# --- refused


def test_no_such_model(hub: Hub) -> None:
    message, hint = refused("me/absent")
    assert message == "me/absent: neither a file here nor a model on the hub"
    assert "spelling" in hint


def test_a_gated_model(hub: Hub) -> None:
    hub.refusals["me/gated"] = (403, "GatedRepo")
    message, hint = refused("me/gated")
    assert message == "me/gated: this model is gated"
    assert "hf auth login" in hint


def test_a_private_model(hub: Hub) -> None:
    hub.refusals["me/private"] = (401, "RepoNotFound")
    assert "hf auth login" in refused("me/private")[1]


def test_no_such_revision(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["me/own"] = write_huggingface(tmp_path / "repository", tiny_weights())
    assert refused("me/own@v9")[0] == "me/own@v9: has no such revision"


def test_no_such_file(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["me/own"] = write_huggingface(tmp_path / "repository", tiny_weights())
    assert refused("me/own/a.gguf")[0] == "me/own: has no file a.gguf"


def test_a_repository_without_weights(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["me/own"] = write_huggingface(tmp_path / "repository", tiny_weights())
    (tmp_path / "repository" / "model.safetensors").unlink()
    message, hint = refused("me/own")
    assert "has no model.safetensors, no pytorch_model.bin and no model.bin" in message
    assert "it has config.json, preprocessor_config.json, tokenizer.json" in message
    assert "owner/name/file.bin" not in hint
    assert "me/own/file.bin" in hint
    hub.lists = False
    assert refused("me/own")[0].endswith("and no model.bin")


def test_a_repository_of_single_files_says_which(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "repository").mkdir()
    write_bin(tmp_path / "repository" / "ggml-tiny.bin", tiny_weights())
    hub.repositories["me/ggml"] = tmp_path / "repository"
    message, hint = refused("me/ggml")
    assert message == "me/ggml: has no config.json; it has ggml-tiny.bin"
    with open_model(hint.rpartition(": ")[2]) as model:
        assert model.format == "bin"
    hub.lists = False
    assert refused("me/ggml")[0] == "me/ggml: has no file config.json"


@pytest.mark.parametrize(("file", "argument"), [("flax_model.msgpack", "from_flax"), ("tf_model.h5", "from_tf")])
def test_a_repository_of_another_framework(hub: Hub, tmp_path: Path, file: str, argument: str) -> None:
    folder = write_huggingface(tmp_path / "repository", tiny_weights())
    (folder / "model.safetensors").rename(folder / file)
    hub.repositories["me/own"] = folder
    code = shlex.split(refused("me/own")[1].partition("python -c ")[2])[0]
    compile(code, "hint", "exec")
    assert f"W.from_pretrained('me/own', {argument}=True).save_pretrained('own')" in code


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("offline", [False, True])
def test_a_repository_with_one_variant_only(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: int, offline: bool
) -> None:
    weights = tiny_weights()
    folder = write_huggingface(tmp_path / "repository", weights, shards=shards)
    plain = "model.safetensors" if shards == 1 else "model.safetensors.index.json"
    (folder / plain).rename(folder / ("model.fp16.safetensors" if shards == 1 else "model.safetensors.index.fp16.json"))
    hub.repositories["me/variant"] = folder
    if offline:
        open_model("me/variant").close()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with open_model("me/variant") as model:
        assert any("the variant fp16 is taken" in note for note in model.notes)
        for tensor in model.tensors:
            assert bytes(model.rows(tensor)) == weights.arrays[tensor.name].tobytes()


def test_a_repository_with_several_variants_says_how_to_name_one(hub: Hub, tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path / "repository", tiny_weights())
    (folder / "model.fp32.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    hub.repositories["me/variants"] = folder
    message, hint = refused("me/variants")
    assert message == "me/variants: has weights of several variants, fp16, fp32, and none without"
    with open_model(hint.removeprefix("name one: ")) as model:
        assert model.format == "huggingface"


def test_another_kind_of_model(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["me/bert"] = write_huggingface(tmp_path / "repository", tiny_weights())
    (tmp_path / "repository" / "config.json").write_text('{"model_type": "bert"}')
    assert "model_type 'bert', expected 'whisper'" in refused("me/bert")[0]


def test_a_hub_that_fails(hub: Hub) -> None:
    hub.refusals["me/own"] = (403, "")
    message, _ = refused("me/own")
    assert "me/own" in message
    assert "403" in message


@pytest.mark.parametrize("offline", [False, True])
def test_no_network(hub: Hub, monkeypatch: pytest.MonkeyPatch, offline: bool) -> None:
    at(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", offline)
    message, hint = refused("openai/whisper-small")
    assert "openai/whisper-small: not in the cache, and the hub cannot be reached" in message
    assert "HF_HUB_OFFLINE" in hint
    assert "name a folder on disk" in hint


def test_no_network_when_half_was_fetched(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["me/own"] = write_huggingface(tmp_path / "repository", tiny_weights())
    (tmp_path / "repository" / "model.safetensors").unlink()
    refused("me/own")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "me/own: not in the cache" in refused("me/own")[0]


def test_a_download_that_breaks_off(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object, **more: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", broken)
    message, _ = refused("me/own")
    assert "config.json could not be downloaded" in message
    assert "No space left" in message


@pytest.mark.parametrize("text", ["model.bin", "a/b/", "/a/b", "../a/b", "a//b", "a b/c", "a/../../etc/passwd"])
def test_what_is_no_id(text: str) -> None:
    assert not looks_like_id(text)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://huggingface.co/openai/whisper-small", "openai/whisper-small"),
        ("http://www.huggingface.co/openai/whisper-small/", "openai/whisper-small"),
        ("huggingface.co/openai/whisper-small", "openai/whisper-small"),
        ("https://hf.co/openai/whisper-small?library=transformers", "openai/whisper-small"),
        ("https://huggingface.co/openai/whisper-small/tree/main", "openai/whisper-small"),
        ("https://huggingface.co/openai/whisper-small/tree/refs-1", "openai/whisper-small@refs-1"),
        ("https://huggingface.co/me/w/blob/main/a/ggml-tiny.bin", "me/w/a/ggml-tiny.bin"),
        ("https://huggingface.co/me/w/resolve/v2/ggml-tiny.bin?download=true", "me/w/ggml-tiny.bin@v2"),
        ("hf://me/w", "me/w"),
        ("https:/huggingface.co/me/w", "me/w"),  # as pathlib spells it
        ("https://example.org/me/w", None),
        ("openai/whisper-small", None),
    ],
)
def test_an_address_that_was_pasted(address: str, name: str | None) -> None:
    assert id_at(address) == name
    assert name is None or looks_like_id(name)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("tiny.en", "openai/whisper-tiny.en"),
        ("whisper-small", "openai/whisper-small"),
        ("Large-v3", "openai/whisper-large-v3"),
        ("large", "openai/whisper-large-v3"),
        ("large-v1", "openai/whisper-large"),
        ("turbo", "openai/whisper-large-v3-turbo"),
        ("large-v3-turbo", "openai/whisper-large-v3-turbo"),
        ("distil-large-v3", "distil-whisper/distil-large-v3"),
        ("distil-large-v3.5", "distil-whisper/distil-large-v3.5"),
        ("distil-small.en", "distil-whisper/distil-small.en"),
        ("large.en", None),
        ("large-v1-turbo", None),
        ("tiny.bin", None),
    ],
)
def test_a_released_models_short_name(given: str, name: str | None) -> None:
    assert released_id(given) == name


def test_a_short_name_is_opened_from_the_hub(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["openai/whisper-tiny.en"] = write_huggingface(tmp_path / "repository", tiny_weights())
    monkeypatch.chdir(tmp_path)
    with open_model("tiny.en") as model:
        assert model.notes[0] == "tiny.en: no such file here; openai/whisper-tiny.en on the hub is taken"
    write_bin(tmp_path / "tiny.en", tiny_weights())
    with open_model("tiny.en") as model:
        assert model.format == "bin"


def test_a_short_name_without_a_network_says_what_was_tried(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    message, hint = refused("large-v3")
    assert message.startswith("large-v3: no such file here; on the hub, openai/whisper-large-v3: not in the cache, and")
    assert "HF_HUB_OFFLINE" in message
    assert "name a folder on disk" in hint


def test_a_file_of_whisper_cpps_that_is_not_there(tmp_path: Path) -> None:
    for name, found in (("ggml-base.en.bin", True), ("ggml-large-v3-turbo-q5_0.bin", True), ("ggml-mine.bin", False)):
        assert ("ggerganov/whisper.cpp/" + name in refused(str(tmp_path / name))[1]) == found


def test_another_address_is_to_be_downloaded_first() -> None:
    with pytest.raises(FormatError) as caught:
        open_model("https://example.org/a/b/ggml-tiny.bin")
    assert "download it first" in str(caught.value.hint)


def test_weights_of_a_repository_come_with_what_describes_them(hub: Hub, tmp_path: Path) -> None:
    folder = write_huggingface(tmp_path / "repository", tiny_weights())
    (folder / "model.safetensors").rename(folder / "model.fp16.safetensors")
    hub.repositories["me/variants"] = folder
    with open_model("me/variants/model.fp16.safetensors") as model:
        assert model.metadata["config"]["model_type"] == "whisper"


def test_an_adapter_on_the_hub_is_said_to_be_one(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "openai/whisper-base"}')
    hub.repositories["me/whisper-lora"] = tmp_path
    message, hint = refused("me/whisper-lora")
    assert "is an adapter (LoRA), not a model" in message
    assert "openai/whisper-base" in hint
