"""The procedures declared in this process: what they take and return, checked when they are declared.

The signature is read once: into a decoder of the arguments, and one that the result must pass.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

import msgspec

from pgbus.annotations import EMPTY, declared_type
from pgbus.codec import decoder
from pgbus.errors import (
    ConfigurationError,
    DuplicateProcedureName,
    InvalidArguments,
    InvalidEventError,
    InvalidResult,
    UnhandledEventError,
)
from pgbus.handlers import Handler, describe, is_async, resolved_signature
from pgbus.topics import check_topic


@dataclass(frozen=True, slots=True, kw_only=True)
class Procedure:
    """A function served over calls; what the options mean is told at `Bus.procedure`."""

    name: str
    handler: Handler
    is_async: bool
    signature: inspect.Signature = field(repr=False)
    """Its parameters and what it returns, annotations resolved; `annotations.declared_type` says a parameter's type."""
    decode: Arguments = field(repr=False)
    check: Result = field(repr=False)
    concurrency: int | None = None
    timeout: float | None = None


def make_procedure(name: str, handler: Handler, *, concurrency: int | None, timeout: float | None) -> Procedure:
    """A procedure from what `Bus.procedure` was given; raises ConfigurationError naming what is wrong."""
    check_procedure_name(name)
    if not callable(handler):
        raise ConfigurationError(f"procedure {name!r} needs a function to call, not {handler!r}")
    if concurrency is not None and concurrency < 1:
        raise ConfigurationError(f"procedure {name!r}: concurrency is a number of calls, at least 1")
    if timeout is not None and not 0 < timeout < math.inf:
        raise ConfigurationError(f"procedure {name!r}: timeout is seconds, more than 0")
    signature = resolved_signature(handler)
    return Procedure(
        name=name,
        handler=handler,
        is_async=is_async(handler),
        signature=signature,
        decode=Arguments(name, handler, signature),
        check=Result(name, signature),
        concurrency=concurrency,
        timeout=timeout,
    )


def check_procedure_name(name: str) -> None:
    """Raises ConfigurationError unless the name is dotted: `api.procedure`."""
    try:
        check_topic(name)
    except InvalidEventError as error:
        raise ConfigurationError(f"procedure: {error.reason}") from None
    if "." not in name:
        raise ConfigurationError(f"procedure {name!r}: name it by its API and itself, as in 'auth.check_password'")


class Arguments:
    """Decodes JSON text into the keyword arguments of a function.

    A parameter that the caller leaves out is left to the function's own default.
    """

    def __init__(self, procedure: str, handler: Handler, signature: inspect.Signature) -> None:
        self._procedure = procedure
        self._takes_more = False
        fields = []
        for parameter in signature.parameters.values():
            if parameter.kind is parameter.VAR_KEYWORD:
                self._takes_more = True
            elif parameter.kind is not parameter.VAR_POSITIONAL:
                fields.append(_field(procedure, handler, parameter))
        self._names = tuple(name for name, *_ in fields)
        # Its name is what messages show.
        struct = msgspec.defstruct(
            f"{procedure}()", fields, kw_only=True, forbid_unknown_fields=not self._takes_more, gc=False
        )
        self._decode = decoder(struct)

    def __call__(self, text: str) -> dict[str, Any]:
        """The arguments; raises InvalidArguments."""
        try:
            values = self._decode(text)
        except UnhandledEventError as error:
            raise InvalidArguments(
                f"the arguments do not fit {self._procedure}: {error.__cause__}", procedure=self._procedure
            ) from error
        arguments = {name: value for name in self._names if (value := getattr(values, name)) is not msgspec.UNSET}
        if self._takes_more:
            arguments |= {name: value for name, value in msgspec.json.decode(text).items() if name not in self._names}
        return arguments


def _field(procedure: str, handler: Handler, parameter: inspect.Parameter) -> tuple[Any, ...]:
    annotation = declared_type(parameter)
    if parameter.kind is parameter.POSITIONAL_ONLY:
        raise ConfigurationError(
            f"procedure {procedure!r} ({describe(handler)}): {parameter.name!r} is positional-only; drop the '/'"
        )
    try:
        decoder(annotation)
    except ConfigurationError as error:
        raise ConfigurationError(
            f"procedure {procedure!r}: {parameter.name!r} is annotated {annotation!r}, which no argument can be "
            f"decoded into: {error.__cause__}"
        ) from error
    if parameter.default is parameter.empty:
        return (parameter.name, annotation)
    return (parameter.name, Union[annotation, msgspec.UnsetType], msgspec.UNSET)  # noqa: UP007 - holds any annotation


class Result:
    """Checks that a result, as JSON text, fits the return annotation; without one, everything does."""

    def __init__(self, procedure: str, signature: inspect.Signature) -> None:
        self._procedure = procedure
        annotation = signature.return_annotation
        try:
            self._decode = None if annotation in (EMPTY, Any) else decoder(annotation)
        except ConfigurationError as error:
            raise ConfigurationError(
                f"procedure {procedure!r} returns {annotation!r}, which nothing can be decoded into: {error.__cause__}"
            ) from error

    def __call__(self, text: str) -> None:
        """Raises InvalidResult for a result that does not fit."""
        if self._decode is None:
            return
        try:
            self._decode(text)
        except UnhandledEventError as error:
            raise InvalidResult(
                f"{self._procedure} returned what does not fit its annotation: {error.__cause__}",
                procedure=self._procedure,
            ) from error


class Procedures:
    """The procedures of one bus, by name, in the order of their declaration; and the errors its calls may raise."""

    def __init__(self) -> None:
        self._procedures: dict[str, Procedure] = {}
        self._watchers: list[Callable[[Procedure], None]] = []
        self.errors: dict[str, type[Exception]] = {}
        """Exception classes by qualified name: a call raises them as themselves, others as RemoteError."""

    def add(self, procedure: Procedure) -> None:
        """Add a procedure, also to workers that run already; raises DuplicateProcedureName."""
        if procedure.name in self._procedures:
            raise DuplicateProcedureName(procedure.name)
        self._procedures[procedure.name] = procedure
        for watcher in tuple(self._watchers):
            watcher(procedure)

    def allow_errors(self, *classes: type[Exception]) -> None:
        """Let calls raise these classes as themselves when a procedure raised them, made from its `args`."""
        for cls in classes:
            self.errors[error_name(cls)] = cls

    def watch(self, watcher: Callable[[Procedure], None]) -> Callable[[], None]:
        """Call `watcher` with every procedure that is added from now on; returns a function that ends it."""
        self._watchers.append(watcher)
        return lambda: self._watchers.remove(watcher)

    def select(self, *, only: Sequence[str] | None = None, skip: Sequence[str] | None = None) -> list[Procedure]:
        """The procedures named in `only` (default: all) but not in `skip`."""
        return [
            procedure
            for procedure in self._procedures.values()
            if (only is None or procedure.name in only) and procedure.name not in (skip or ())
        ]

    def __iter__(self) -> Iterator[Procedure]:
        return iter(tuple(self._procedures.values()))

    def __len__(self) -> int:
        return len(self._procedures)

    def __contains__(self, name: object) -> bool:
        return name in self._procedures

    def get(self, name: str) -> Procedure | None:
        """The procedure of that name, if there is one."""
        return self._procedures.get(name)


def error_name(cls: type[BaseException]) -> str:
    """The qualified name under which an exception class travels."""
    return f"{cls.__module__}.{cls.__qualname__}"
