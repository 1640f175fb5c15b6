"""Where the audio is that a manifest names."""

from __future__ import annotations

from pathlib import Path

from whisq.clips.audio import SUFFIXES

_BELOW = ("", "clips", "wavs", "wav", "audio")
"""Folders in which corpora keep what their manifests name without a folder: Common Voice's, LJSpeech's, others'."""


def find_audio(folder: Path, name: str) -> Path | None:
    """Return the file that a manifest in a folder names, or None where there is none.

    It may be named with Windows' separators, without the folder that its corpus keeps audio in, or without a suffix.
    """
    plain = name.strip()
    spellings = dict.fromkeys((plain, plain.replace("\\", "/")))
    for spelling in spellings:
        if not spelling:
            continue
        for below in _BELOW:
            found = folder / below / spelling
            if is_there(found):
                return found
            for suffix in SUFFIXES:
                with_suffix = found.parent / (found.name + suffix)
                if is_there(with_suffix):
                    return with_suffix
    return None


def audio_beside(folder: Path, name: str) -> Path:
    """Return the file that a manifest in a folder names, or where it should be."""
    return find_audio(folder, name) or folder / name


def is_there(path: Path) -> bool:
    """Return whether a path is one of something other than a folder."""
    try:
        return path.exists() and not path.is_dir()
    except (OSError, ValueError):  # a name that is too long, or holds NUL
        return False
