"""whisq: quantize Whisper models with a precision of its own for every tensor."""

__version__ = "0.1.0"
