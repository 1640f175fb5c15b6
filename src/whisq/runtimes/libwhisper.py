"""The next token's logits in whisper.cpp itself: the C API of the libwhisper that pywhispercpp's wheel carries.

pywhispercpp gives no logits, so the library is called beside it. Declarations are ``include/whisper.h`` of whisper.cpp
1.8.5, which pywhispercpp 1.5.1 carries.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from whisq.errors import RuntimeUnavailableError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from whisq.clips.audio import Samples

_PACKAGE = "pywhispercpp"
_NAME = re.compile(r"(lib)?whisper(-[0-9a-f]+)?(\.so|\.dylib|\.dll|\.\d+)+")


class _AlignmentHeads(ctypes.Structure):
    _fields_ = (("n_heads", ctypes.c_size_t), ("heads", ctypes.c_void_p))


class ContextParameters(ctypes.Structure):
    """``whisper_context_params``; it is passed by value.

    ``spare`` is zeros for what a later version adds: passed by value, a larger structure does no harm where a smaller
    one is read, and one that is too small would be read beyond its end.
    """

    _fields_ = (
        ("use_gpu", ctypes.c_bool),
        ("flash_attn", ctypes.c_bool),
        ("gpu_device", ctypes.c_int),
        ("dtw_token_timestamps", ctypes.c_bool),
        ("dtw_aheads_preset", ctypes.c_int),
        ("dtw_n_top", ctypes.c_int),
        ("dtw_aheads", _AlignmentHeads),
        ("dtw_mem_size", ctypes.c_size_t),
        ("spare", ctypes.c_uint64 * 24),
    )


def default_parameters(library: ctypes.CDLL) -> ContextParameters:
    """Return the library's own parameters for loading a model."""
    theirs = library.whisper_context_default_params_by_ref()
    found = ContextParameters()
    ctypes.memmove(ctypes.addressof(found), theirs, ContextParameters.spare.offset)
    library.whisper_free_context_params(theirs)
    return found


def find_library() -> ctypes.CDLL:
    """Return the libwhisper that pywhispercpp runs, its functions declared.

    Raises ``RuntimeUnavailableError`` where the package is not installed or carries no such library.
    """
    try:
        importlib.import_module("_pywhispercpp")  # it brings the libraries that libwhisper needs
        files = importlib.metadata.files(_PACKAGE) or []
    except (ImportError, importlib.metadata.PackageNotFoundError):
        raise RuntimeUnavailableError(
            f"whisper.cpp's logits need {_PACKAGE}: not installed", hint=f"pip install {_PACKAGE}"
        ) from None
    paths = [Path(str(file.locate())) for file in files if _NAME.fullmatch(file.name)]
    # A wheel's own copies, which the package is linked with, are in a folder of their own; others stand beside them.
    paths.sort(key=lambda path: (not path.parent.name.endswith(("libs", "dylibs")), path.name))
    for path in paths:
        if path.is_file():
            return _declared(ctypes.CDLL(str(path)))
    raise RuntimeUnavailableError(
        f"{_PACKAGE} {importlib.metadata.version(_PACKAGE)} carries no libwhisper",
        hint=f"pip install {_PACKAGE}==1.5.1",
    )


def _declared(library: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number = ctypes.c_void_p, ctypes.c_int
    for name, result, arguments in (
        ("context_default_params_by_ref", pointer, []),
        ("free_context_params", None, [pointer]),
        ("init_from_file_with_params", pointer, [ctypes.c_char_p, ContextParameters]),
        ("free", None, [pointer]),
        ("n_vocab", number, [pointer]),
        ("pcm_to_mel", number, [pointer, pointer, number, number]),
        ("encode", number, [pointer, number, number]),
        ("decode", number, [pointer, pointer, number, number, number]),
        ("get_logits", ctypes.POINTER(ctypes.c_float), [pointer]),
    ):
        function = getattr(library, f"whisper_{name}")
        function.restype, function.argtypes = result, arguments
    return library


class WhisperCppLogits:
    """A model in whisper.cpp on the CPU, asked for one token after the other, as it transcribes."""

    def __init__(self, path: Path, threads: int) -> None:
        self._library = find_library()
        self._threads = threads or min(4, os.cpu_count() or 1)
        parameters = default_parameters(self._library)
        parameters.use_gpu = False
        self._context = self._library.whisper_init_from_file_with_params(os.fsencode(path), parameters)
        if not self._context:
            raise RuntimeUnavailableError(f"{path}: whisper.cpp does not load it")
        self._n_vocab = int(self._library.whisper_n_vocab(self._context))
        self._known: list[int] = []

    def hear(self, samples: Samples) -> None:
        """Encode up to 30 s of 16 kHz mono samples: what follows is asked about them."""
        audio = np.ascontiguousarray(samples, np.float32)
        self._check(
            "whisper_pcm_to_mel",
            self._library.whisper_pcm_to_mel(self._context, audio.ctypes.data, audio.size, self._threads),
        )
        self._check("whisper_encode", self._library.whisper_encode(self._context, 0, self._threads))
        self._known = []

    def after(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits ``[vocabulary]`` of what follows these tokens; tokens of the last call are remembered."""
        # whisper.cpp computes logits for the last token only, and one token must be decoded anew.
        shared = 0
        while shared < min(len(ids) - 1, len(self._known)) and ids[shared] == self._known[shared]:
            shared += 1
        fresh = np.array(ids[shared:], np.int32)
        decoded = self._library.whisper_decode(self._context, fresh.ctypes.data, fresh.size, shared, self._threads)
        self._check("whisper_decode", decoded)
        self._known = list(ids)
        logits = self._library.whisper_get_logits(self._context)
        rows: NDArray[np.float32] = np.ctypeslib.as_array(logits, (fresh.size, self._n_vocab))
        return np.array(rows[-1])

    def close(self) -> None:
        """Free the model."""
        if self._context:
            self._library.whisper_free(self._context)
            self._context = None

    def _check(self, function: str, code: int) -> None:
        if code:
            raise RuntimeUnavailableError(f"{function} failed with code {code}")
