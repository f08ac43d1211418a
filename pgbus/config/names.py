"""Placeholders in the names of a service and of a process, such as `{hostname}-{pid}`."""

from __future__ import annotations

import functools
import os
import re
import secrets
import socket
from collections.abc import Mapping

PLACEHOLDERS = ("hostname", "pid", "random4", "random8", "random16", "friendly")

_PLACEHOLDER = re.compile(r"\{(\w*)\}")

_ADJECTIVES = (
    "amber", "brave", "brisk", "calm", "clear", "cool", "eager", "early", "fair", "fast", "fresh", "gentle", "glad",
    "golden", "green", "happy", "keen", "kind", "late", "light", "lively", "lucky", "mellow", "merry", "mild", "neat",
    "noble", "plain", "polite", "proud", "quick", "quiet", "rapid", "red", "rustic", "sharp", "shy", "silent", "silver",
    "small", "smooth", "snowy", "soft", "steady", "still", "sunny", "swift", "tall", "tidy", "warm", "wide", "young",
)  # fmt: skip
_NOUNS = (
    "badger", "bay", "beech", "birch", "breeze", "brook", "cedar", "cliff", "cloud", "coast", "crane", "creek", "dawn",
    "delta", "dune", "eagle", "elm", "falcon", "fern", "field", "finch", "forest", "fox", "garden", "glade", "harbour",
    "hare", "heath", "heron", "hill", "island", "lake", "lark", "maple", "marsh", "meadow", "moon", "oak", "otter",
    "owl", "peak", "pine", "pond", "rain", "reef", "ridge", "river", "robin", "shore", "spring", "stone", "valley",
)  # fmt: skip


def expand(text: str) -> str:
    """The text with its placeholders replaced, by the same values for as long as the process lives.

    Raises ValueError for a placeholder that there is not, and for a brace that belongs to none.
    """
    values = _values(os.getpid())

    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise ValueError(
                f"there is no placeholder {found[0]}; there are {', '.join(f'{{{name}}}' for name in PLACEHOLDERS)}"
            )
        return values[found[1]]

    expanded = _PLACEHOLDER.sub(value, text)
    if any(brace in _PLACEHOLDER.sub("", text) for brace in "{}"):
        raise ValueError("braces are only allowed around the name of a placeholder, such as {hostname}")
    return expanded


@functools.cache
def _values(pid: int) -> Mapping[str, str]:
    """By process id: a forked child has names of its own."""
    friendly = f"{secrets.choice(_ADJECTIVES)}-{secrets.choice(_NOUNS)}-{secrets.randbelow(900) + 100}"
    randoms = {f"random{size}": secrets.token_hex(size // 2) for size in (4, 8, 16)}
    return {"hostname": socket.gethostname(), "pid": str(pid), **randoms, "friendly": friendly}
