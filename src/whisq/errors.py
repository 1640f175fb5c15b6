"""The one family of exceptions that whisq raises on purpose.

An error says what went wrong, where, what was found and what was expected; ``hint`` says what to do.
The command line prints ``error: MESSAGE`` and ``hint: HINT`` and exits 1. Anything else that
escapes is a bug in whisq and exits 2.
"""


class WhisqError(Exception):
    """Base of all errors that are the input's or the user's to fix."""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class FormatError(WhisqError):
    """A model file is not what it says it is: truncated, inconsistent, or of another kind."""


class TypeNameError(WhisqError):
    """A tensor type is unknown, or not one that whisq writes."""


class RecipeError(WhisqError):
    """A recipe or a rule cannot be read: bad TOML, unknown key, invalid regular expression."""


class PlanError(WhisqError):
    """What was asked cannot be done with this model: a misfit, a refused target, a strict warning."""


class WeightError(WhisqError):
    """A weight cannot be represented: NaN, infinity, or beyond the range of the type it is stored as."""


class OutputError(WhisqError):
    """The output cannot be written: it is the input, the disk is full, permission is missing."""


class BrokenFileError(WhisqError):
    """A file that was just written is not what it should be: rows are lost, or no runtime hears with it."""


class KernelError(WhisqError):
    """A kernel was called with arrays that do not fit it, or on a CPU that lacks what was forced."""


class MissingExtraError(WhisqError):
    """An optional dependency is needed for this and is not installed."""


class DataError(WhisqError):
    """Audio or transcripts cannot be used: missing, unreadable, empty, or in the wrong columns."""


class RuntimeUnavailableError(WhisqError):
    """No installed runtime can run this model file."""


class CalibrationError(WhisqError):
    """A calibration does not fit the model, or does not cover what was asked of it."""


class ClusterError(WhisqError):
    """A Ray cluster cannot be reached or used, or work on it failed again and again."""
