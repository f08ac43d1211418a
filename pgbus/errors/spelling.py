"""The names that a wrong one may have meant, for the messages of errors."""

from __future__ import annotations

from collections.abc import Iterable


def find_close(name: str, known: Iterable[str], *, most: int = 3, cutoff: float = 0.6) -> list[str]:
    """Return the known names that look like this one, closest first; `cutoff` is from 0, anything, to 1, the same."""
    import difflib  # only a wrong name asks for it

    return difflib.get_close_matches(name, sorted(known), n=most, cutoff=cutoff)
