"""Upload a publication to the hub: what is there already is not sent again, and nothing becomes public by itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whisq.errors import OutputError
from whisq.hashing import file_sha256
from whisq.progress import Progress, no_progress
from whisq.publishing.card import CARD

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelCard

_LARGE = (".bin", ".gguf")


@dataclass(frozen=True, slots=True)
class Upload:
    """What was or would be sent, and what the repository has already; ``url`` is where people see it."""

    url: str
    sent: tuple[str, ...]
    there: tuple[str, ...]
    is_new: bool
    is_private: bool


def upload(
    folder: Path,
    files: Sequence[Path],
    repository: str,
    *,
    public: bool = False,
    dry_run: bool = False,
    progress: Progress = no_progress,
) -> Upload:
    """Send files to a model's repository on the hub, which is made, private, where there is none.

    Each large file is a commit of its own, so that a broken upload goes on where it stopped; the card comes last, with
    all that is small: until then nobody reads of files that are not there. The card is validated by the hub first.
    With ``dry_run`` nothing is made or sent. Raises ``OutputError`` for whatever the hub refuses.
    """
    from huggingface_hub import HfApi, ModelCard
    from huggingface_hub import errors as hub_errors
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()  # its bars would be drawn over ours
    api = HfApi(library_name="whisq")
    names = {path.relative_to(folder).as_posix(): path for path in files}
    try:
        _validate(ModelCard.load(folder / CARD), repository)
        known, is_new, is_private = _known(api, repository)
        missing = [name for name, path in names.items() if not _is_same(path, known.get(name))]
        found = Upload(
            f"{api.endpoint}/{repository}",
            tuple(missing),
            tuple(name for name in names if name not in missing),
            is_new,
            is_private if not is_new else not public,
        )
        if dry_run or not (missing or is_new):
            return found
        if is_new:
            api.create_repo(repository, repo_type="model", private=not public)
        _send(api, repository, {name: names[name] for name in missing}, progress)
    # A RuntimeError is the client's for a large file that did not arrive.
    except (hub_errors.HfHubHTTPError, hub_errors.HFValidationError, OSError, RuntimeError) as error:
        raise _refused(repository, error) from None
    return found


def _validate(card: ModelCard, repository: str) -> None:
    try:
        card.validate(repo_type="model")
    except ValueError as error:
        raise OutputError(
            f"{repository}: the hub does not take the card: {_first_line(error)}",
            hint="mend what it names (--license, --base-model, --card-language), and run the same command again",
        ) from None


def _known(api: HfApi, repository: str) -> tuple[dict[str, Any], bool, bool]:
    """Return the repository's files by name, whether there is no repository yet, and whether it is private."""
    from huggingface_hub import errors as hub_errors

    try:
        information = api.model_info(repository)
    except hub_errors.RepositoryNotFoundError:
        return {}, True, True
    listed = api.list_repo_tree(repository, recursive=True)
    return {entry.path: entry for entry in listed if hasattr(entry, "blob_id")}, False, bool(information.private)


def _is_same(path: Path, entry: Any) -> bool:
    """Return whether the hub has a file: by its SHA-256 where it is a large one, else by its id in git."""
    if entry is None or entry.size != path.stat().st_size:
        return False
    if entry.lfs is not None:
        return bool(entry.lfs.sha256 == file_sha256(path))
    content = path.read_bytes()
    return bool(entry.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest())


def _send(api: HfApi, repository: str, files: dict[str, Path], progress: Progress) -> None:
    from huggingface_hub import CommitOperationAdd

    large = {name: path for name, path in files.items() if name.endswith(_LARGE)}
    small = {name: path for name, path in files.items() if name not in large}
    total = sum(path.stat().st_size for path in files.values())
    done = 0
    for batch in [{name: path} for name, path in large.items()] + ([small] if small else []):
        progress("uploading", done, total)
        operations = [CommitOperationAdd(name, path) for name, path in batch.items()]
        what = next(iter(batch)) if len(batch) == 1 else "card, results and recipes"
        api.create_commit(repository, operations, commit_message=f"{what}, by whisq", repo_type="model")
        done += sum(path.stat().st_size for path in batch.values())
    progress("uploading", total, total)


def _refused(repository: str, error: Exception) -> OutputError:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return OutputError(
            f"{repository}: the hub does not let you write there", hint="hf auth login, with a token that may write"
        )
    return OutputError(
        f"{repository}: could not be uploaded: {_first_line(error)}",
        hint="run the same command again: it goes on where it stopped",
    )


def _first_line(error: BaseException) -> str:
    cause = error.__cause__ or error
    return (str(cause).strip().split("\n")[0] or type(cause).__name__)[:200]
