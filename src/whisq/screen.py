"""Text of others (names, paths, texts of libraries) as it is shown: nothing in it moves a cursor or hides a word."""

from __future__ import annotations

import unicodedata

_NOT_SHOWN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS = "\u200c\u200d"
"""Between letters of Persian and of Indian scripts these are spelling."""
_UNDECODABLE = range(0xDC80, 0xDD00)
"""What Python makes of the bytes 0x80 to 0xff in a file name that is not UTF-8."""


def shown(text: str) -> str:
    r"""Return the text with an escape (``\x1b``) for each character that is not seen or that reorders others.

    Those are control and format characters, line breaks, and halves of surrogate pairs; a byte that a file name's
    encoding could not take is shown as the byte.
    """
    if text.isprintable():
        return text
    return "".join(map(_escaped, text))


def shown_lines(text: str) -> str:
    """Return ``shown`` text, but with the line breaks that are ours: those before a line set in by two spaces."""
    return "\n  ".join(shown(line) for line in text.split("\n  "))


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _NOT_SHOWN or character in _JOINERS:
        return character
    number = ord(character)
    if number in _UNDECODABLE:
        return f"\\x{number - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
