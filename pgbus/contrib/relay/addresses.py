"""The address of another system: which broker it is, how to reach it, and what to write or read there.

| scheme | out | in |
|---|---|---|
| `kafka`, `kafka+tls` | `topic` | `topic`: one or several, joined by commas |
| `nats`, `nats+tls` | `subject` | `stream`, `subject`: a filter |
| `amqp`, `amqps` | `exchange` | `queue` |
| `redis`, `rediss` | `stream` | `stream`: one or several, joined by commas |
| `postgresql` | `namespace` | |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from pgbus.errors import ConfigurationError

_KINDS = {
    "kafka": "kafka",
    "kafka+tls": "kafka",
    "nats": "nats",
    "nats+tls": "nats",
    "amqp": "rabbit",
    "amqps": "rabbit",
    "redis": "redis",
    "rediss": "redis",
    "postgresql": "postgres",
    "postgres": "postgres",
}
_PARAMETERS = {
    "kafka": frozenset({"topic"}),
    "nats": frozenset({"subject", "stream"}),
    "rabbit": frozenset({"exchange", "queue"}),
    "redis": frozenset({"stream"}),
    "postgres": frozenset({"namespace"}),
}
# Their URLs have parameters of their own, which their clients read.
_HAVE_PARAMETERS = ("rabbit", "redis", "postgres")


@dataclass(frozen=True, slots=True)
class Address:
    """An address, taken apart.

    - `kind`: `kafka`, `nats`, `rabbit`, `redis` or `postgres`.
    - `url`: without the parameters of pgbus; it may hold a password.
    - `hosts`: `host:port`, or several with commas between them.
    - `parameters`: those of pgbus, by name.
    """

    kind: str
    url: str = field(repr=False)
    hosts: str
    parameters: Mapping[str, str]
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    is_encrypted: bool = False

    @classmethod
    def read(cls, text: str) -> Address:
        """Read an address; raises ConfigurationError for another scheme or parameter, without quoting a password."""
        try:
            parts = urlsplit(text)
            given = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
        except ValueError:
            raise ConfigurationError("the address of a relay is not a URL such as kafka://host:9092") from None
        kind = _KINDS.get(parts.scheme)
        if kind is None:
            raise ConfigurationError(f"{parts.scheme!r} is not the scheme of a relay; there are {', '.join(_KINDS)}")
        own = {name: value for name, value in given.items() if name in _PARAMETERS[kind]}
        others = {name: value for name, value in given.items() if name not in own}
        if others and kind not in _HAVE_PARAMETERS:
            allowed = " and ".join(sorted(_PARAMETERS[kind]))
            raise ConfigurationError(f"{next(iter(others))!r} is not a parameter of {parts.scheme}; it has {allowed}")
        login, _, hosts = parts.netloc.rpartition("@")
        if not hosts and kind != "postgres":
            raise ConfigurationError(f"the address needs a host, as in {parts.scheme}://host")
        user, _, password = login.partition(":")
        return cls(
            kind=kind,
            url=SplitResult(parts.scheme, parts.netloc, parts.path, urlencode(others), "").geturl(),
            hosts=hosts,
            parameters=own,
            user=unquote(user) or None,
            password=unquote(password) or None,
            is_encrypted=parts.scheme.endswith(("+tls", "s")) and parts.scheme != "nats",
        )

    def target(self, parameter: str, topic: str) -> str:
        """Where events of a topic go: the parameter's value, in which `{topic}` is the topic; the topic without it."""
        return self.parameters.get(parameter, "{topic}").replace("{topic}", topic)

    def names(self, parameter: str) -> list[str]:
        """The names in a parameter that has to be there; raises ConfigurationError where it is not."""
        names = [name for name in self.parameters.get(parameter, "").split(",") if name]
        if not names:
            raise ConfigurationError(f"name what to read: {self.hosts}?{parameter}=NAME")
        return names

    def place(self, name: str) -> str:
        """A place there, as the origins of an event name it; it has no credentials and no spaces."""
        return f"{self.kind}://{self.hosts}/{name}".replace(" ", "%20")
