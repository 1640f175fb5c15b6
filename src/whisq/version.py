"""The version of whisq, at the very bottom: what is written says it, whichever module writes."""

__version__ = "0.2.0.dev1"
