"""Settings of one API, each taken from `apis.{its name}`, else from `apis.default`, else built in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pgbus import lightbus
from pgbus.config.fields import (
    DAY,
    About,
    check_name,
    checked,
    kinds,
    mapping,
    place,
    refusal,
    seconds,
)
from pgbus.config.files import FromVariables
from pgbus.errors import InvalidEventError
from pgbus.topics import check_topic

# The name under which a file has what holds for every API.
DEFAULT = "default"

# How files spell the fields that they group.
SPELLINGS = {"validate_outgoing": "validate.outgoing", "validate_incoming": "validate.incoming"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiConfig:
    """Settings of one API. A value of the wrong type or out of range raises ConfigurationError."""

    rpc_timeout: Annotated[
        float | None,
        seconds("A call waits this long, if neither it nor the procedure says; default: the setting rpc_timeout",
                minimum=0.001, maximum=DAY),
    ] = None  # fmt: skip
    event_fire_timeout: Annotated[
        float, seconds("A blocking `fire` waits this long for the database", minimum=0.001, maximum=DAY)
    ] = 5.0
    validate_outgoing: Annotated[
        bool, About("Check what this process sends: events, arguments of calls, and results")
    ] = True
    validate_incoming: Annotated[
        bool, About("Check what this process receives: events, arguments of calls, and results")
    ] = True
    strict_validation: Annotated[bool, About("Refuse what no schema is known for, instead of letting it pass")] = False
    cast_values: Annotated[bool, About("Cast what is received to the receiver's annotations")] = True

    def __post_init__(self) -> None:
        for name in kinds(ApiConfig):
            value = checked(ApiConfig, name, getattr(self, name), label=name, source="argument")
            object.__setattr__(self, name, value)


BUILT_IN = ApiConfig()


def read_apis(table: object, *, source: str) -> Iterator[tuple[str, str, object]]:
    """Of the table `apis` of a file, or of an argument: API name, field and checked value.

    Raises ConfigurationError for anything else.
    """
    for api_name, settings in mapping(table, "apis", source).items():
        label = f"apis.{_checked_api_name(api_name, source)}"
        for name, value in _fields(settings, label, source):
            spelling = f"{label}.{SPELLINGS.get(name, name)}"
            yield api_name, name, checked(ApiConfig, name, value, label=spelling, source=source)


def resolve(given: Mapping[str, Mapping[str, Any]]) -> dict[str, ApiConfig]:
    """The settings of each API that some are given for."""
    shared = given.get(DEFAULT, {})
    return {api_name: ApiConfig(**{**shared, **fields}) for api_name, fields in given.items()}


def _fields(settings: object, label: str, source: str) -> Iterator[tuple[str, object]]:
    if isinstance(settings, ApiConfig):
        yield from ((name, getattr(settings, name)) for name in kinds(ApiConfig))
        return
    names = [name for name in kinds(ApiConfig) if name not in SPELLINGS]
    for name, value in mapping(settings, label, source).items():
        if name == "validate":
            yield from _directions(value, f"{label}.validate", source)
            continue
        if name not in names and isinstance(value, Mapping) and name not in lightbus.SETTINGS:
            raise refusal(
                f"{label}.{name}",
                source,
                f'no setting is a table here; quote a dotted name: "{label.removeprefix("apis.")}.{name}"',
            )
        check_name(name, [*names, "validate"], where=place(label, source))
        yield name, value


def _directions(value: object, label: str, source: str) -> Iterator[tuple[str, object]]:
    if isinstance(value, bool | FromVariables):
        value = {"outgoing": value, "incoming": value}
    if not isinstance(value, Mapping):
        raise refusal(label, source, "must be true, false, or a table of `outgoing` and `incoming`")
    for name, wanted in value.items():
        check_name(name, ["outgoing", "incoming"], where=place(label, source))
        yield f"validate_{name}", wanted


def _checked_api_name(api_name: str, source: str) -> str:
    try:
        return check_topic(api_name)
    except InvalidEventError as error:
        raise refusal(f"apis.{api_name}", source, f"no API can have this name: {error.reason}") from None
