"""Which APIs, and which names in them: globs, and the regular expression that they become."""

from __future__ import annotations

import re
from collections.abc import Iterable

import msgspec


class Names(msgspec.Struct, frozen=True):
    """Dotted names by their API, the part before the last dot, and by the word after it.

    Globs: `*` is any characters and `?` any one of them, as in `my.*` and `user_*`. A name is among these if it fits
    any of `apis` and any of `words`, where there are some, and if its API is none of `hidden`.
    """

    apis: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()

    def regex(self) -> str | None:
        """A regular expression for Python and PostgreSQL alike; None if any name will do."""
        if not (self.apis or self.words or self.hidden):
            return None
        hidden = rf"(?!(?:{_any(self.hidden, '.')})\.[^.]*$)" if self.hidden else ""
        # A name without a dot is of no API, so it fits where none is asked for.
        api = rf"(?:{_any(self.apis, '.')})\." if self.apis else r"(?:.*\.)?"
        word = _any(self.words, "[^.]") if self.words else "[^.]*"
        return f"^{hidden}{api}(?:{word})$"


EVERY_NAME = Names()


def _any(globs: Iterable[str], character: str) -> str:
    wildcards = {"*": f"{character}*", "?": character}
    return "|".join("".join(wildcards.get(letter) or re.escape(letter) for letter in glob) for glob in globs)
