"""A hub on this machine, as much of its protocol as ``huggingface_hub`` asks for.

A file is ``GET`` or ``HEAD`` of ``/OWNER/NAME/resolve/REVISION/FILE`` with an ``ETag`` and ``X-Repo-Commit``; an
error says its kind in ``X-Error-Code``. ``/api/models/OWNER/NAME/tree/REVISION`` lists the files, unless a test
says that it does not.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c0ffee" + "0" * 34


class Hub(ThreadingHTTPServer):
    """Serves folders under ids; ``refusals`` maps other ids to a status and an error code."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, Path] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.fetched: list[str] = []
        self.lists = True

    @property
    def address(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, *, with_body: bool) -> None:
        if self.path.startswith("/api/models/"):
            return self._list(*self.path.partition("?")[0].removeprefix("/api/models/").partition("/tree/")[::2])
        owner, _, rest = self.path.lstrip("/").partition("/")
        name, _, rest = rest.partition("/resolve/")
        revision, _, file = rest.partition("/")
        repository = f"{owner}/{name}"
        if repository in self.server.refusals:
            return self._refuse(*self.server.refusals[repository])
        folder = self.server.repositories.get(repository)
        if folder is None:
            return self._refuse(401, "RepoNotFound")
        if revision not in ("main", COMMIT):
            return self._refuse(404, "RevisionNotFound")
        if not (folder / file).is_file():
            return self._refuse(404, "EntryNotFound")
        content = (folder / file).read_bytes()
        self.send_response(200)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if with_body:
            self.server.fetched.append(file)
            self.wfile.write(content)
        return None

    def _list(self, repository: str, revision: str) -> None:
        folder = self.server.repositories.get(repository)
        if folder is None or not self.server.lists:
            return self._refuse(404, "")
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        listing = [
            {"type": "file", "oid": "0", "size": path.stat().st_size, "path": str(path.relative_to(folder))}
            for path in files
        ]
        content = json.dumps(listing).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        return None

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if code == "RevisionNotFound" or code == "EntryNotFound":
            self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def serving() -> Iterator[Hub]:
    """Give a hub that answers until the block ends."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()
