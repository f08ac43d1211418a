"""The names of the channels of LISTEN and NOTIFY. A notification is a hint: what it is about stands in a table."""

from __future__ import annotations


def wake(namespace: str) -> str:
    """Return the channel on which publishers wake the leader."""
    return f"{namespace}_wake"


def work(namespace: str) -> str:
    """The leader, other workers and operators wake workers; the payload has listener ids, or one word."""
    return f"{namespace}_work"


def calls(namespace: str) -> str:
    """Callers tell servers of requests, and of those that they cancel."""
    return f"{namespace}_calls"


def replies(namespace: str, caller: str) -> str:
    """Servers tell one caller of responses. `caller` is its id."""
    return f"{namespace}_reply_{caller}"


def schemas(namespace: str) -> str:
    """Publishers of schemas notify other processes of a change."""
    return f"{namespace}_schemas"
