"""A hub that can be written to, as much of its protocol as ``huggingface_hub`` uses for a model's files.

Large files go by git-lfs's batch protocol (basic transfer), the rest inside the commit, a line of JSON each.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.support.hub_server import COMMIT, Hub, _Handler


class Repository:
    """A model's repository: what it holds, which of it is large, and the messages of its commits."""

    def __init__(self, *, private: bool) -> None:
        self.private = private
        self.contents: dict[str, bytes] = {}
        self.large: set[str] = set()
        self.commits: list[str] = []


class UploadHub(Hub):
    """Takes repositories, large files and commits.

    ``refused_cards`` is what it says of every card, ``broken_after`` how many large files it takes before it fails.
    """

    def __init__(self) -> None:
        super().__init__()
        self.RequestHandlerClass = _Uploads
        self.written: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.refused_cards = ""
        self.broken_after: int | None = None
        self.forbidden = False


class _Uploads(_Handler):
    server: UploadHub

    def do_GET(self) -> None:  # noqa: N802 - as http.server calls it
        path = urlsplit(self.path).path
        if not path.startswith("/api/models/"):
            return super().do_GET()
        name, _, rest = path.removeprefix("/api/models/").partition("/tree/")
        repository = self.server.written.get(unquote(name))
        if repository is None:
            return self._refuse(404, "RepoNotFound")
        if not rest:
            return self._json({"id": name, "private": repository.private, "sha": COMMIT, "siblings": []})
        return self._json([_entry(repository, path) for path in repository.contents])

    def do_POST(self) -> None:  # noqa: N802 - as http.server calls it
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if not body and self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        path = urlsplit(self.path).path
        if path == "/api/validate-yaml":
            return self._text(400, self.server.refused_cards) if self.server.refused_cards else self._json({})
        if self.server.forbidden:
            return self._text(403, "Forbidden")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            self.server.written[name] = Repository(
                private=bool(asked.get("private") or asked.get("visibility") == "private")
            )
            return self._json({"url": f"{self.server.address}/{name}", "name": name})
        if path.endswith("/info/lfs/objects/batch"):
            return self._json(self._batch(json.loads(body)), "application/vnd.git-lfs+json")
        owner, name, what = unquote(path).removeprefix("/api/models/").split("/", 2)
        if what.startswith("preupload/"):
            files = [
                {"path": file["path"], "uploadMode": _mode(file["path"]), "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        self._commit(self.server.written[f"{owner}/{name}"], [json.loads(line) for line in body.splitlines()])
        url = f"{self.server.address}/{owner}/{name}/commit/{COMMIT}"
        return self._json({"success": True, "commitOid": COMMIT, "commitUrl": url})

    def do_PUT(self) -> None:  # noqa: N802 - as http.server calls it
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.server.broken_after is not None and len(self.server.objects) >= self.server.broken_after:
            return self._text(400, "the connection broke")
        self.server.objects[hashlib.sha256(content).hexdigest()] = content
        return self._json({})

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        objects = []
        for wanted in asked["objects"]:
            found: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in self.server.objects:
                found["actions"] = {"upload": {"href": f"{self.server.address}/objects/{wanted['oid']}"}}
            objects.append(found)
        return {"transfer": "basic", "objects": objects}

    def _commit(self, repository: Repository, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                repository.commits.append(value["summary"])
            elif line["key"] == "file":
                repository.contents[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.contents[value["path"]] = self.server.objects[value["oid"]]
                repository.large.add(value["path"])

    def _chunks(self) -> bytes:
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return whole

    def _json(self, document: Any, kind: str = "application/json") -> None:
        self._answer_with(200, json.dumps(document).encode(), kind)

    def _text(self, status: int, text: str) -> None:
        self._answer_with(status, text.encode(), "text/plain")

    def _answer_with(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def _mode(path: str) -> str:
    return "lfs" if path.endswith((".bin", ".gguf")) else "regular"


def _entry(repository: Repository, path: str) -> dict[str, Any]:
    content = repository.contents[path]
    found: dict[str, Any] = {
        "type": "file",
        "path": path,
        "size": len(content),
        "oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest(),
    }
    if path in repository.large:
        found["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
    return found


@contextmanager
def taking_uploads() -> Iterator[UploadHub]:
    """Give a hub that answers until the block ends."""
    with UploadHub() as hub:
        thread = Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
