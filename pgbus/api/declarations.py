"""The declarations of a service: Api classes, their events, and the events' parameters.

Everything is checked when the class is defined.
"""

from __future__ import annotations

import inspect
import keyword
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from pgbus.codec.annotations import EMPTY, declared_type, members_of
from pgbus.codec.casting import explain
from pgbus.codec.losses import LostError
from pgbus.codec.payloads import check_readable, decoder, encode, keeper
from pgbus.errors import (
    ConfigurationError,
    EventNotFound,
    InvalidApiEventConfiguration,
    InvalidEventArguments,
    InvalidEventError,
    MisconfiguredApiOptions,
    UnhandledEventError,
)
from pgbus.topics import check_topic, is_private

# What `fire` and `call` take for themselves.
OPTION_NAMES = frozenset({"bus_options", "using"})

# A value of one of these classes is of that type.
_PLAIN = (str, int, float, bool)
_NO_LIMIT = 1 << 40  # bytes; the payload as a whole has one


class Parameter:
    """A parameter of an event: a name, and optionally a type and a default.

    - `annotation`: the type that `fire` accepts, any type that events can be decoded into; default: the type of the
      default.
    - `default`: the value if the event is fired without the parameter. Without a default, a parameter that may be None
      is None, and any other is required.

    Raises InvalidApiEventConfiguration for an invalid name, a type that cannot be decoded, and a default that cannot be
    sent or is not of the type.
    """

    __slots__ = ("_decode", "_keeper", "_sent_default", "annotation", "default", "name")

    def __init__(self, name: str, annotation: Any = EMPTY, *, default: Any = EMPTY) -> None:
        if not str(name).isidentifier() or keyword.iskeyword(name):
            raise InvalidApiEventConfiguration(f"{name!r} cannot name a parameter: it is not a Python identifier")
        if name in OPTION_NAMES:
            raise InvalidApiEventConfiguration(f"a parameter cannot be named {name!r}: `fire` takes an option of it")
        self.name = name
        self.annotation = annotation
        self.default = None if default is EMPTY and type(None) in members_of(annotation) else default
        self._decode = _decoder(name, declared_type(self))
        self._keeper = keeper(declared_type(self)) if self._decode else None
        self._sent_default = None if self.is_required else self._checked_default()

    @property
    def is_required(self) -> bool:
        """Whether the event cannot be fired without it."""
        return self.default is EMPTY

    @property
    def sent_default(self) -> Any:
        """The default as the JSON value that it is in an event."""
        return msgspec.json.decode(self._sent_default or "null")

    def check(self, value: object) -> None:
        """Raise InvalidEventArguments for a value that is not of the type, DeformError for one that cannot be sent."""
        if self._decode is not None and not (type(value) is self.annotation and type(value) in _PLAIN):
            self.check_sent(encode(value, limit=_NO_LIMIT, field=self.name), value)

    def check_sent(self, text: str, value: object = EMPTY) -> None:
        """`check` for the JSON text that the value is in an event; without the value, for its type alone.

        Raises InvalidEventArguments.
        """
        if self._decode is None:
            return
        try:
            read = self._decode(text)
            if self._keeper and value is not EMPTY:
                self._keeper(value, read)
        except (UnhandledEventError, LostError) as error:
            reason, place = explain(error.__cause__ or error)
            raise InvalidEventArguments(self.name, reason, place=place) from error

    def _checked_default(self) -> str:
        try:
            self.check_sent(text := encode(self.default, limit=_NO_LIMIT, field=self.name))
        except InvalidEventError as error:
            raise InvalidApiEventConfiguration(f"the default of parameter {error}") from error
        return text

    def __repr__(self) -> str:
        return f"Parameter({self.name!r})"


class WildcardParameter:
    """Stands for any further arguments of an event."""

    __slots__ = ()


def _decoder(name: str, annotation: Any) -> Callable[[str], Any] | None:
    if annotation is Any:
        return None
    try:
        check_readable(annotation)
        return decoder(annotation)
    except LostError as error:
        place = f"{name}{error.place}"
        raise InvalidApiEventConfiguration(f"parameter {name!r}: `{place}`: {error.reason}") from None
    except ConfigurationError as error:
        raise InvalidApiEventConfiguration(f"parameter {name!r}: {error}") from error


class Event:
    """An event of an API: `user_created = Event(parameters=("username", "email"))`.

    A parameter is a name, a `Parameter`, or a `WildcardParameter`, which admits any further arguments. A string alone
    is one parameter. Raises InvalidApiEventConfiguration.
    """

    __slots__ = ("accepts_any", "parameters")

    def __init_subclass__(cls, **options: object) -> None:
        """Refuse it: who writes this means an event class, which a decorator makes."""
        raise InvalidApiEventConfiguration(
            f"{cls.__name__} cannot be a subclass of pgbus.Event, which stands in an API's class: "
            f'`created = pgbus.Event(...)`. A class of its own is an event by `@pgbus.event("its.topic")` above it'
        )

    def __init__(
        self, parameters: str | Parameter | WildcardParameter | Sequence[str | Parameter | WildcardParameter] = ()
    ) -> None:
        # ("username") is a string: a tuple of one element needs a comma, which is easily forgotten.
        given = (parameters,) if isinstance(parameters, str | Parameter | WildcardParameter) else tuple(parameters)
        self.accepts_any = any(isinstance(parameter, WildcardParameter) for parameter in given)
        self.parameters: Mapping[str, Parameter] = _by_name(given)

    def arguments(self, given: Mapping[str, object], *, validate: bool = True) -> dict[str, object]:
        """Return the arguments to fire, with defaults; raises InvalidEventArguments for an unknown or missing one.

        With `validate` also for one that is not of its parameter's type, and DeformError for one that cannot be sent.
        """
        names = ", ".join(self.parameters) or "none"
        for name in given:
            if name not in self.parameters and not self.accepts_any:
                raise InvalidEventArguments(name, f"the event has no such parameter; it has: {names}")
        for parameter in self.parameters.values():
            if parameter.name in given:
                if validate:
                    parameter.check(given[parameter.name])
            elif parameter.is_required:
                raise InvalidEventArguments(parameter.name, f"the event needs this argument; its parameters: {names}")
        return {**self.defaults(), **given}

    def defaults(self) -> dict[str, object]:
        """The default values, by name of the parameters that have one."""
        return {
            parameter.name: parameter.default for parameter in self.parameters.values() if not parameter.is_required
        }

    def filled(self, sent: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the sent JSON values, and defaults for parameters that the event did not have when it was fired."""
        missing = {
            one.name: one.sent_default
            for one in self.parameters.values()
            if one.name not in sent and not one.is_required
        }
        return {**sent, **missing} if missing else sent

    def __repr__(self) -> str:
        return f"Event({', '.join((*self.parameters, *(['**'] if self.accepts_any else [])))})"


def _by_name(given: Sequence[object]) -> dict[str, Parameter]:
    found: dict[str, Parameter] = {}
    for one in given:
        if isinstance(one, WildcardParameter):
            continue
        if not isinstance(one, str | Parameter):
            raise InvalidApiEventConfiguration(f"{one!r} is not a parameter; write a name or a Parameter")
        parameter = Parameter(one) if isinstance(one, str) else one
        if parameter.name in found:
            raise InvalidApiEventConfiguration(f"an event has two parameters named {parameter.name!r}")
        found[parameter.name] = parameter
    return found


class ApiOptions:
    """The attributes of an API's `class Meta`: `name`, `version` (1), `internal` (False), and any others it has."""

    def __init__(self, *, name: str, version: int, internal: bool, others: Mapping[str, Any]) -> None:
        self.__dict__.update(others)
        self.name = name
        self.version = version
        self.internal = internal

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"API {self.name!r} has no option {name!r} in its Meta")


class Api:
    """Base of a service's APIs: events as class attributes, public methods as procedures, and an inner `class Meta`.

        class AuthApi(Api):
            user_created = Event(parameters=("username", "email"))

            class Meta:
                name = "auth"       # required; dots allowed
                version = 1         # default 1; goes with every event that is fired

    A subclass inherits events and methods and needs a Meta of its own. Raises MisconfiguredApiOptions when the class
    is defined, if its Meta is missing or wrong.
    """

    meta: ClassVar[ApiOptions]
    __events: ClassVar[Mapping[str, Event]]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if clash := next((name for name in ("meta", "get_event") if name in cls.__dict__), None):
            raise MisconfiguredApiOptions(f"{cls.__qualname__}.{clash} hides what every Api has; give it another name")
        cls.meta = _options(cls)
        cls.__events = dict(_events(cls))

    @classmethod
    def get_event(cls, name: str) -> Event:
        """The event of that name; raises EventNotFound."""
        event = cls.__events.get(name)
        if event is None:
            raise EventNotFound(cls.meta.name, name, tuple(cls.__events))
        return event

    def __str__(self) -> str:
        return self.meta.name


def event_names(api: Api) -> list[str]:
    """The names of the API's events, inherited ones included."""
    return [name for name, _ in _events(type(api))]


def procedures(api: Api) -> dict[str, Callable[..., Any]]:
    """The API's public methods, by name; static methods and properties are none."""
    names = [name for name in dir(type(api)) if not name.startswith("_") and not hasattr(Api, name)]
    # Looked at before it is fetched: fetching a property would run it.
    return {name: getattr(api, name) for name in names if _is_method(inspect.getattr_static(api, name))}


def _is_method(value: object) -> bool:
    return isinstance(value, types.FunctionType | classmethod)


def _events(cls: type) -> Iterator[tuple[str, Event]]:
    for name in dir(cls):
        value = inspect.getattr_static(cls, name)
        if isinstance(value, Event):
            try:
                check_topic(name)
            except InvalidEventError as error:
                raise InvalidApiEventConfiguration(f"event {cls.__qualname__}.{name}: {error.reason}") from None
            if is_private(name):
                raise InvalidApiEventConfiguration(
                    f"event {cls.__qualname__}.{name}: names that begin with an underscore are private, so nobody "
                    "could fire it; remove the underscore"
                )
            yield name, value


def _options(cls: type) -> ApiOptions:
    meta = cls.__dict__.get("Meta")
    if meta is None:
        raise MisconfiguredApiOptions(
            f"API class {cls.__qualname__} has no `class Meta` of its own; write one with a `name`"
        )
    given = {name: getattr(meta, name) for name in dir(meta) if not name.startswith("_")}
    version = given.pop("version", 1)
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise MisconfiguredApiOptions(f"{cls.__qualname__}.Meta.version is a whole number, not {version!r}")
    return ApiOptions(
        name=_api_name(cls, given.pop("name", None)),
        version=version,
        internal=bool(given.pop("internal", False)),
        others=given,
    )


def _api_name(cls: type, name: object) -> str:
    if not isinstance(name, str) or not name:
        raise MisconfiguredApiOptions(f"{cls.__qualname__}.Meta needs a `name`, as in name = 'auth'")
    if name.split(".")[0] == "default":
        raise MisconfiguredApiOptions(f"{cls.__qualname__}.Meta.name cannot be 'default', nor begin with 'default.'")
    if is_private(name):
        raise MisconfiguredApiOptions(
            f"{cls.__qualname__}.Meta.name is {name!r}, but words that begin with an underscore are private, so that "
            "nothing of it could be reached on the bus; remove the underscore"
        )
    try:
        return check_topic(name)
    except InvalidEventError as error:
        raise MisconfiguredApiOptions(f"{cls.__qualname__}.Meta.name: {error.reason}") from None
