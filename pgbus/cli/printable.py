"""Text that others wrote, made fit for a terminal: what would steer it, or turn lines around, is shown as an escape."""

from __future__ import annotations

_CONTROLS = (
    *range(0x20),  # C0
    *range(0x7F, 0xA0),  # DEL and C1
    0x061C, 0x200E, 0x200F,  # marks that change the direction of text
    0x2028, 0x2029,  # line and paragraph separators
    *range(0x202A, 0x202F),  # embeddings and overrides of the direction
    *range(0x2066, 0x206A),  # isolates
)  # fmt: skip

# As JSON escapes them: in JSON these stand only within strings, where an escape means the same.
_ESCAPES = {code: f"\\u{code:04x}" for code in _CONTROLS}
_LINES_KEPT = {code: escape for code, escape in _ESCAPES.items() if chr(code) not in "\n\t"}


def printable(text: str) -> str:
    """The text with its line breaks and tabs, and with escapes for all else that steers a terminal."""
    return text.translate(_LINES_KEPT)


def on_one_line(text: str) -> str:
    """The same for a name, which is to look as one: line breaks and tabs are shown as escapes, too."""
    return text.translate(_ESCAPES)
