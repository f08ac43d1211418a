"""Escapes control characters, and characters that change the direction of text, in text for a terminal."""

from __future__ import annotations

_CONTROLS = (
    *range(0x20),  # C0
    *range(0x7F, 0xA0),  # DEL and C1
    0x061C, 0x200E, 0x200F,  # marks that change the direction of text
    0x2028, 0x2029,  # line and paragraph separators
    *range(0x202A, 0x202F),  # embeddings and overrides of the direction
    *range(0x2066, 0x206A),  # isolates
)  # fmt: skip

# JSON's escapes: in JSON these characters occur only within strings, where an escape has the same meaning.
_ESCAPES = {code: f"\\u{code:04x}" for code in _CONTROLS}
_LINES_KEPT = {code: escape for code, escape in _ESCAPES.items() if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """Return the text with its line breaks and tabs, and with all other control characters escaped."""
    return text.translate(_LINES_KEPT)


def on_one_line(text: str) -> str:
    """Return the text with all control characters escaped, including line breaks and tabs."""
    return text.translate(_ESCAPES)
