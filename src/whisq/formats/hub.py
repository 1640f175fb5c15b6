"""Models by their id on the Hugging Face hub: ``openai/whisper-small``, ``owner/name@revision``.

Fetches what a reader needs and nothing else, into huggingface_hub's cache: a model that is there opens without a
network. ``owner/name/file.gguf`` means one file of a repository.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whisq.errors import FormatError
from whisq.formats import safetensors, torch_zip
from whisq.formats.tokenizer_json import read_json
from whisq.formats.weight_files import variant_among

_ID = re.compile(
    r"(?!.*\.\.)(?P<repository>[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*)(?P<file>(/[\w.\-]+)+)?(@(?P<revision>[\w./\-]+))?"
)
_ADDRESS = re.compile(
    r"(?:(?:https?://?)?(?:www\.)?(?:huggingface\.co|hf\.co)/|hf:/{0,2})(?P<repository>[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*)"
    r"(?:/(?:tree|blob|resolve|raw)/(?P<revision>[\w.\-]+)(?:/(?P<file>[\w./\-]*[\w.\-]))?)?/?(?:[?#].*)?"
)
_DESCRIPTIONS = (
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "vocabulary.json",
    "vocabulary.txt",
    "README.md",
)
_CTRANSLATE2 = "model.bin"
_ONE_FILE = re.compile(r".*\.(?:bin|gguf|pt|safetensors)")
_OTHER_FRAMEWORKS = {"flax_model.msgpack": "from_flax=True", "tf_model.h5": "from_tf=True"}


def id_at(address: str) -> str | None:
    """Return the id of what an address on the hub shows, as it is copied from a browser; None for another text."""
    match = _ADDRESS.fullmatch(address.strip())
    if match is None:
        return None
    name = match["repository"]
    if match["file"]:
        name += f"/{match['file']}"
    return f"{name}@{match['revision']}" if match["revision"] not in (None, "main") else name


def looks_like_id(text: str) -> bool:
    """Return whether a text that is not a path on disk may be a model's id on the hub."""
    return _ID.fullmatch(text) is not None


def download(text: str) -> tuple[Path, dict[str, Any]]:
    """Return where the files of a model lie on disk, and its name and address on the hub.

    Raises ``FormatError`` when it is not there, not allowed, holds no weights, or when there is no network.
    """
    match = _ID.fullmatch(text)
    if match is None:
        raise FormatError(f"{text!r} is not a hub model id", hint="write owner/name, as in openai/whisper-small")
    repository, revision = match["repository"], match["revision"]
    card = {"name": repository, "repo_url": f"https://huggingface.co/{repository}"}
    source = Source(repository, revision, unreachable(repository))
    if match["file"]:
        return _one_file(source, match["file"].removeprefix("/")), card
    try:
        folder = fetch(source, "config.json").parent
    except _AbsentError:
        # Adapters are on the hub like models, and have a description of their own.
        adapter = _fetch_if_there(source, "adapter_config.json")
        if adapter is None:
            names = files_of(source)
            if names:
                raise _without_model(source, names, "config.json") from None
            raise
        return adapter.parent, card
    for name in _DESCRIPTIONS:
        _fetch_if_there(source, name)
    _fetch_weights(source)
    return folder, card


def _one_file(source: Source, name: str) -> Path:
    """Return one file of a repository; for weights that are not a model by themselves, with what describes them."""
    folder, _, last = name.rpartition("/")
    if last.endswith(".safetensors") or last.startswith("pytorch_model") or last == _CTRANSLATE2:
        for description in ("config.json", *_DESCRIPTIONS):
            _fetch_if_there(source, f"{folder}/{description}" if folder else description)
    return fetch(source, name)


@dataclass(frozen=True, slots=True)
class Source:
    """A repository at a revision; ``unreachable`` says why only the cache can be asked, None when the hub can."""

    repository: str
    revision: str | None = None
    unreachable: str | None = None

    def __str__(self) -> str:
        return f"{self.repository}@{self.revision}" if self.revision else self.repository


def unreachable(repository: str) -> str | None:
    """Return why the hub cannot be asked for a repository, or None.

    Asked once per model: the client itself tries for half a minute with each file.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub import errors as hub_errors

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_hf_file_metadata(hf_hub_url(repository, "config.json"))
    except (hub_errors.HfHubHTTPError, hub_errors.HFValidationError):
        return None
    except Exception as error:  # which family a broken connection is of depends on the client's version
        return _reason(error)
    return None


def _fetch_weights(source: Source) -> None:
    missed: list[FormatError] = []
    for index, single in (
        (safetensors.INDEX, safetensors.SINGLE),
        (torch_zip.INDEX, torch_zip.SINGLE),
        ("", _CTRANSLATE2),
    ):
        # One file before shards: repositories that have both keep another precision in the shards.
        if _fetch_if_there(source, single, missed):
            return
        listing = _fetch_if_there(source, index, missed) if index else None
        if listing is not None:
            for shard in _shards_named(read_json(listing)):
                fetch(source, shard)
            return
    names = files_of(source)
    variant = variant_among(str(source), names)
    if variant is not None:
        path = fetch(source, variant[1])
        for shard in _shards_named(read_json(path)) if path.suffix == ".json" else ():
            fetch(source, shard)
        return
    if missed:
        raise missed[0]
    wanted = f"{safetensors.SINGLE}, no {torch_zip.SINGLE} and no {_CTRANSLATE2}"
    raise _without_model(source, names, wanted)


def files_of(source: Source) -> list[str]:
    """Return the names of a repository's files: the hub's list, or what is cached of it; empty where neither is had."""
    from huggingface_hub import HfApi, try_to_load_from_cache

    if source.unreachable is None:
        try:
            return sorted(HfApi().list_repo_files(source.repository, revision=source.revision))
        except Exception:  # a mirror need not list anything; which error it is depends on the client's version
            return []
    cached = try_to_load_from_cache(source.repository, "config.json", revision=source.revision)
    return sorted(entry.name for entry in Path(cached).parent.iterdir()) if isinstance(cached, str) else []


def _without_model(source: Source, names: Sequence[str], wanted: str) -> FormatError:
    """Return the error of a repository without what makes a model: what it has instead, and how to go on from there."""
    listed = f"; it has {', '.join(names[:4])}{', …' if len(names) > 4 else ''}" if names else ""
    files = [name for name in names if _ONE_FILE.fullmatch(name)]
    framework = next((argument for name, argument in _OTHER_FRAMEWORKS.items() if name in names), None)
    hint = f"name one file of the repository instead: {source.repository}/{files[0] if files else 'file.bin'}"
    if framework is not None:
        folder = source.repository.rpartition("/")[2]
        code = "from transformers import WhisperForConditionalGeneration as W, WhisperTokenizerFast as T;"
        code += f" W.from_pretrained({source.repository!r}, {framework}).save_pretrained({folder!r});"
        code += f" T.from_pretrained({source.repository!r}).save_pretrained({folder!r})"
        hint = f'with pip install "transformers<5" and the framework: python -c {shlex.quote(code)}'
    return FormatError(f"{source}: has no {wanted}{listed}", hint=hint)


def _shards_named(index: Any) -> list[str]:
    """Return the files that an index names; the reader says what is wrong with one that names none."""
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    names = weight_map.values() if isinstance(weight_map, dict) else ()
    return sorted({name for name in names if isinstance(name, str) and Path(name).name == name})


def _fetch_if_there(source: Source, name: str, missed: list[FormatError] | None = None) -> Path | None:
    """Return a file that a repository need not have; what is not cached when the hub is away is added to ``missed``."""
    try:
        return fetch(source, name)
    except _AbsentError:
        return None
    except _UnreachableError as error:
        if missed is not None:
            missed.append(error)
        return None


class _AbsentError(FormatError):
    """The repository is there and has no such file."""


class _UnreachableError(FormatError):
    """The file is not cached, and there is no way to the hub."""


def fetch(source: Source, name: str) -> Path:
    """Return one file of a repository on disk, downloading it unless it is cached.

    Raises ``FormatError`` with the reason in a user's words.
    """
    from huggingface_hub import errors as hub_errors
    from huggingface_hub import hf_hub_download

    shown, away = str(source), source.unreachable is not None
    try:
        return Path(hf_hub_download(source.repository, name, revision=source.revision, local_files_only=away))
    except hub_errors.RevisionNotFoundError:
        raise FormatError(f"{shown}: has no such revision", hint="leave out @REVISION for the newest") from None
    except hub_errors.GatedRepoError:
        raise FormatError(
            f"{shown}: this model is gated", hint="request access on its page, then: hf auth login"
        ) from None
    except hub_errors.RepositoryNotFoundError:
        raise FormatError(
            f"{shown}: neither a file here nor a model on the hub",
            hint="check the spelling; a private one needs: hf auth login",
        ) from None
    except hub_errors.LocalEntryNotFoundError as error:
        raise _UnreachableError(
            f"{shown}: not in the cache, and the hub cannot be reached ({source.unreachable or _reason(error)})",
            hint="check the network (and HF_ENDPOINT, HF_HUB_OFFLINE), or name a folder on disk",
        ) from None
    except hub_errors.EntryNotFoundError:
        listing = f"https://huggingface.co/{source.repository}/tree/{source.revision or 'main'}"
        raise _AbsentError(f"{shown}: has no file {name}", hint=f"name one of the files at {listing}") from None
    except (hub_errors.HfHubHTTPError, hub_errors.HFValidationError, OSError) as error:
        raise FormatError(
            f"{shown}: {name} could not be downloaded: {_reason(error)}", hint="try again later"
        ) from None


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    first = str(cause).strip().split("\n")[0]
    return (first or type(cause).__name__)[:160]
