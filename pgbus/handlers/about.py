"""The owner, the description and the links of an event, a listener or a procedure.

They are stored next to the schema and do not belong to it: a change of words does not make a new version.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar
from urllib.parse import urlsplit

from pgbus.errors import ConfigurationError

T = TypeVar("T")

MOST_CHARACTERS = 2_000
"""Of a description, and of an owner or link."""
_ATTRIBUTE = "__pgbus_about__"


@dataclass(frozen=True, slots=True)
class About:
    """`links` are URLs by their titles; what was not given is empty."""

    owner: str = ""
    description: str = ""
    links: Mapping[str, str] = field(default_factory=dict)


def about(*, owner: str = "", description: str = "", links: Mapping[str, str] | None = None) -> Callable[[T], T]:
    """Decorate an event class, an API class, a listener's function or a procedure with its owner and what it is for.

    - `owner`: the team to ask, as it is called in your company;
    - `description`: default: the first paragraph of the docstring;
    - `links`: URLs (http, https or mailto) by their titles: `{"runbook": "https://..."}`.

    Of an API class it holds for each of its events and procedures. `pgbus schema asyncapi`, `pgbus schema eventcatalog`
    and `pgbus.schema_versions` show it. Raises ConfigurationError for more than 2,000 characters, and for a link that
    is not a URL.
    """
    said = About(owner, description, dict(links or {}))
    _check(said)

    def note(declared: T) -> T:
        # A bound method keeps its attributes in its function.
        setattr(getattr(declared, "__func__", declared), _ATTRIBUTE, said)
        return declared

    return note


def about_of(declared: object, *, within: object = None) -> About:
    """The owner, description and links of a declared class or function; empty ones are taken from its API class."""
    said = _own(declared)
    outer = _own(within)
    return replace(
        said,
        owner=said.owner or outer.owner,
        description=said.description or _first_paragraph(declared) or outer.description,
        links={**outer.links, **said.links},
    )


def _own(declared: object) -> About:
    # Not what a class inherits: a parent's words are of the parent.
    found = vars(declared).get(_ATTRIBUTE) if isinstance(declared, type) else getattr(declared, _ATTRIBUTE, None)
    return found if isinstance(found, About) else About()


def _first_paragraph(declared: object) -> str:
    if not (isinstance(declared, type) or inspect.isroutine(declared)):
        return ""  # of an object that is called, the docstring is its class's
    text = vars(declared).get("__doc__") if isinstance(declared, type) else declared.__doc__
    if not text or (isinstance(declared, type) and text.startswith(f"{declared.__name__}(")):
        return ""  # a dataclass without a docstring gets its signature for one
    return " ".join(inspect.cleandoc(text).split("\n\n")[0].split())[:MOST_CHARACTERS]


def _check(said: About) -> None:
    texts: dict[str, object] = {"owner": said.owner, "description": said.description}
    texts |= {f"link {title!r}": url for title, url in said.links.items()}
    for name, text in texts.items():
        if not isinstance(text, str) or len(text) > MOST_CHARACTERS or "\0" in text:
            raise ConfigurationError(f"@about: {name} must be a string of at most {MOST_CHARACTERS:,} characters")
    for title, url in said.links.items():
        if not title or urlsplit(url).scheme not in ("http", "https", "mailto"):
            raise ConfigurationError(f"@about: link {title!r} must be an http, https or mailto URL, and is: {url!r}")
