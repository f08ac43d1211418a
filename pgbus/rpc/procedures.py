"""The procedures declared in this process: what they take and return, checked when they are declared.

The signature is read once: into a decoder of the arguments, and one that the result must pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from pgbus.codec.annotations import EMPTY, bare, declared_type
from pgbus.codec.casting import cast_if_it_fits, cast_part, caster, explain, parser, step_to
from pgbus.codec.losses import LostError
from pgbus.codec.payloads import check_readable, decoder, keeper, misfit
from pgbus.config import ApiConfig
from pgbus.config.options import check_options, seconds, whole_number
from pgbus.errors import (
    ConfigurationError,
    DuplicateProcedureName,
    InvalidArguments,
    InvalidEventError,
    InvalidName,
    InvalidResult,
    UnhandledEventError,
)
from pgbus.handlers.declared import Declared
from pgbus.handlers.signatures import Handler, describe, is_async, resolved_signature, why_not_handler
from pgbus.topics import check_topic, is_private

_OPTIONS = {"concurrency": whole_number("calls", 1).or_none(), "timeout": seconds().or_none()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Procedure:
    """A function that workers serve to callers; for the options see `Bus.procedure`."""

    name: str
    handler: Handler
    is_async: bool
    signature: inspect.Signature = field(repr=False)
    """Its parameters and what it returns, annotations resolved; `annotations.declared_type` says a parameter's type."""
    decode: Arguments = field(repr=False)
    check: Result = field(repr=False)
    concurrency: int | None = None
    timeout: float | None = None


def make_procedure(
    name: str, handler: Handler, *, concurrency: int | None, timeout: float | None, settings: ApiConfig
) -> Procedure:
    """A procedure from what `Bus.procedure` was given; raises ConfigurationError naming what is wrong.

    `settings` are those of its API: what is checked and cast.
    """
    check_procedure_name(name)
    if reason := why_not_handler(handler):
        raise ConfigurationError(f"procedure {name!r} needs a function to call: {reason}")
    check_options(f"procedure {name!r}", _OPTIONS, {"concurrency": concurrency, "timeout": timeout})
    signature = resolved_signature(handler)
    return Procedure(
        name=name,
        handler=handler,
        is_async=is_async(handler),
        signature=signature,
        decode=Arguments(name, handler, signature, settings),
        check=Result(name, signature, settings),
        concurrency=concurrency,
        timeout=timeout,
    )


def check_procedure_name(name: str) -> None:
    """Raises ConfigurationError unless the name is dotted: `api.procedure`; and InvalidName for a private one."""
    if not isinstance(name, str):
        raise ConfigurationError(f"procedure: name it by a string, as in 'auth.check_password', and not {name!r}")
    try:
        check_topic(name)
    except InvalidEventError as error:
        raise ConfigurationError(f"procedure: {error.reason}") from None
    if "." not in name:
        raise ConfigurationError(f"procedure {name!r}: name it by its API and itself, as in 'auth.check_password'")
    if is_private(name):
        raise InvalidName(f"procedure {name!r}: words that begin with an underscore are private; remove the underscore")


class Arguments:
    """Decodes JSON text into the keyword arguments of a function.

    A parameter that the caller leaves out is left to the function's own default.
    """

    def __init__(self, procedure: str, handler: Handler, signature: inspect.Signature, settings: ApiConfig) -> None:
        self._procedure = procedure
        self._settings = settings
        parameters = [one for one in signature.parameters.values() if one.kind is not one.VAR_POSITIONAL]
        self._takes_more = any(one.kind is one.VAR_KEYWORD for one in parameters)
        named = [_checked(procedure, handler, one) for one in parameters if one.kind is not one.VAR_KEYWORD]
        self._names = tuple(one.name for one in named)
        # Its name is what messages show.
        struct = msgspec.defstruct(
            f"{procedure}()",
            [_field(one) for one in named],
            kw_only=True,
            forbid_unknown_fields=not self._takes_more,
            gc=False,
        )
        self._parse = parser(struct)
        self._casts = {one.name: caster(declared_type(one), strict=False) for one in named}
        self._keepers = {one.name: check for one in named if (check := keeper(declared_type(one)))}

    def __call__(self, text: str) -> dict[str, Any]:
        """The arguments as the function gets them; raises InvalidArguments."""
        if not self._settings.validate_incoming:
            return self._as_they_fit(text)
        values = self._parsed(text)
        return self._by_name(values, text) if self._settings.cast_values else plain_arguments(self._procedure, text)

    def check(self, text: str, given: Mapping[str, object]) -> None:
        """Raise InvalidArguments for what the caller is about to send, unless that is not to be checked."""
        if self._settings.validate_outgoing:
            self._parsed(text, given)

    def _parsed(self, text: str, given: Mapping[str, object] | None = None) -> Any:
        try:
            values = self._parse(text)
            for name, value in (given or {}).items():
                if name in self._keepers:
                    cast_part(partial(self._keepers[name], value), step_to(name), getattr(values, name))
            return values
        except Exception as error:  # constructors and validators run code of other people
            raise _refused(self._procedure, error) from error

    def _by_name(self, values: Any, text: str) -> dict[str, Any]:
        arguments = {name: value for name in self._names if (value := getattr(values, name)) is not msgspec.UNSET}
        if self._takes_more:
            arguments |= {
                name: value for name, value in plain_arguments(self._procedure, text).items() if name not in self._names
            }
        return arguments

    def _as_they_fit(self, text: str) -> dict[str, Any]:
        """Cast the arguments that fit; the others are passed as they came, and none is refused."""
        given = plain_arguments(self._procedure, text)
        if not self._settings.cast_values:
            return given
        return {name: cast_if_it_fits(self._casts.get(name), value) for name, value in given.items()}


def plain_arguments(procedure: str, text: str) -> dict[str, Any]:
    """The arguments as they came; raises InvalidArguments for JSON that PostgreSQL stores and Python cannot hold."""
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise _refused(procedure, error) from error


def _refused(procedure: str, error: Exception) -> InvalidArguments:
    refused = InvalidArguments(f"the arguments do not fit {procedure}: {misfit(error)}", procedure=procedure)
    refused.path = explain(error)[1].lstrip(".")
    return refused


def _checked(procedure: str, handler: Handler, parameter: inspect.Parameter) -> inspect.Parameter:
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise ConfigurationError(
            f"procedure {procedure!r} ({describe(handler)}): {parameter.name!r} is positional-only; drop the '/'"
        )
    annotation = declared_type(parameter)
    try:
        decoder(annotation)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"procedure {procedure!r}: {parameter.name!r} is annotated {annotation!r}, which no argument can be "
            f"decoded into: {error.__cause__}"
        ) from error
    return parameter


def _field(parameter: inspect.Parameter) -> tuple[Any, ...]:
    declared = (parameter.name, declared_type(parameter))
    return declared if parameter.default is EMPTY else (*declared, msgspec.UNSET)


class Result:
    """Checks that a result, as JSON text, fits the return annotation; without one, everything does."""

    def __init__(self, procedure: str, signature: inspect.Signature, settings: ApiConfig) -> None:
        self._procedure = procedure
        self._is_checked = settings.validate_outgoing
        annotation = signature.return_annotation
        self.type = Any if annotation is EMPTY else annotation
        """What the function is annotated to return."""
        try:
            self._decode = None if bare(self.type) is Any else decoder(self.type)
            self._keeper = keeper(self.type) if self._decode else None
            check_readable(self.type)
        except LostError as error:
            raise ConfigurationError(
                f"procedure {procedure!r} returns a type that its caller could not read: "
                f"{self.type!r}{error.place}: {error.reason}"
            ) from None
        except ConfigurationError as error:
            raise ConfigurationError(
                f"procedure {procedure!r} returns {annotation!r}, which nothing can be decoded into: {error.__cause__}"
            ) from error

    def __call__(self, text: str, value: object) -> None:
        """Raises InvalidResult for a result that does not fit, unless that is not to be checked."""
        if self._decode is None or not self._is_checked:
            return
        try:
            read = self._decode(text)
            if self._keeper:
                self._keeper(value, read)
        except (UnhandledEventError, LostError) as error:
            raise InvalidResult(
                f"{self._procedure} returned a value that does not fit its annotation: "
                f"{misfit(error.__cause__ or error)}",
                procedure=self._procedure,
            ) from error


class Procedures(Declared[Procedure]):
    """The procedures of one bus, and the errors its calls may raise."""

    def __init__(self) -> None:
        super().__init__(duplicate=DuplicateProcedureName)
        self.errors: dict[str, type[Exception]] = {}
        """Exception classes by qualified name: a call raises them as themselves, others as RemoteError."""

    def allow_errors(self, *classes: type[Exception]) -> None:
        """Let calls raise these classes as themselves when a procedure raised them, made from its `args`."""
        for cls in classes:
            self.errors[error_name(cls)] = cls


def error_name(cls: type[BaseException]) -> str:
    """The qualified name under which an exception class travels."""
    return f"{cls.__module__}.{cls.__qualname__}"
