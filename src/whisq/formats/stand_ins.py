"""What stands where a model should be and is none: asked of every path, so that little is imported for it."""

from __future__ import annotations

import shlex
from pathlib import Path

from whisq.errors import FormatError
from whisq.formats.cursor import first_bytes

_DOWNLOADED = {".safetensors", ".bin", ".pt", ".gguf", ".json", ".ckpt"}


def refuse_stand_in(path: Path) -> None:
    """Raise ``FormatError`` for what stands in for a file that was not downloaded: a pointer of Git LFS, a web page."""
    for file in [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []:
        if file.suffix.lower() not in _DOWNLOADED:
            continue
        start = (first_bytes(file, 64) or b"").lstrip()
        if start.startswith(b"version https://git-lfs"):
            folder = path if path.is_dir() else path.parent
            command = shlex.join(["git", "-C", str(folder), "lfs", "pull"])
            raise FormatError(
                f"{file}: is a pointer of Git LFS, not the file itself", hint=f"fetch what it names: {command}"
            )
        if start[:9].lower() == b"<!doctype" or start[:5].lower() == b"<html":
            raise FormatError(
                f"{file}: is a web page, not a model",
                hint="download the file that the page shows: on the hub, https://huggingface.co/OWNER/NAME/resolve/main/FILE",
            )
