"""What a call fails with, and what a server survives."""

import asyncio

import pytest

import pgbus
from pgbus.errors import ConfigurationError, DuplicateProcedureName
from tests.support.workers import open_bus, running


class OutOfStock(Exception):
    def __init__(self, item: str, left: int) -> None:
        super().__init__(item, left)
        self.item = item
        self.left = left


async def test_what_a_procedure_raises_comes_with_type_and_traceback(bus: pgbus.Bus) -> None:
    @bus.procedure("shop.buy")
    async def buy(item: str) -> None:
        raise OutOfStock(item, 3)

    async with running(bus):
        with pytest.raises(pgbus.RemoteError, match="OutOfStock") as caught:
            await bus.call("shop.buy", {"item": "tea"})
        assert caught.value.remote_type.endswith("test_errors.OutOfStock")
        assert "raise OutOfStock(item, 3)" in caught.value.remote_traceback
        assert caught.value.procedure == "shop.buy"

        bus.registry.procedures.allow_errors(OutOfStock)
        with pytest.raises(OutOfStock) as original:
            await bus.call("shop.buy", {"item": "tea"})
        assert (original.value.item, original.value.left) == ("tea", 3)
        assert isinstance(original.value.__cause__, pgbus.RemoteError)


class Unshowable(Exception):
    def __str__(self) -> str:
        raise ValueError("no")


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a\x00b\ud800"),
        Unshowable(),
        Exception(object()),
        RecursionError("deep"),
        SystemExit(3),
        KeyboardInterrupt(),
        StopIteration(1),
        asyncio.CancelledError(),
        GeneratorExit(),
        TimeoutError("its own"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("kind", ["async", "plain"])
async def test_a_server_survives_whatever_a_procedure_raises(bus: pgbus.Bus, error: BaseException, kind: str) -> None:
    def plain() -> None:
        raise error

    async def coroutine() -> None:
        raise error

    bus.procedure("bad.one")(coroutine if kind == "async" else plain)

    @bus.procedure("good.one")
    async def good() -> int:
        return 1

    async with running(bus):
        with pytest.raises(pgbus.RemoteError):
            await bus.call("bad.one")
        assert await bus.call("good.one") == 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({}, "missing required field `n`"),
        ({"n": "1"}, r"n: Expected `int`, got `str`"),
        ({"n": 1, "m": 2}, "unknown field `m`"),
        ({"n": object()}, "`n` is of .*object.* no JSON form"),
        ({"n": float("nan")}, "is NaN"),
    ],
)
async def test_arguments_that_do_not_fit_are_the_callers_error(
    bus: pgbus.Bus, arguments: dict[str, object], reason: str
) -> None:
    @bus.procedure("maths.double")
    async def double(n: int) -> int:
        return 2 * n

    async with running(bus):
        with pytest.raises(pgbus.InvalidArguments, match=reason):
            await bus.call("maths.double", arguments)
        assert await bus.call("maths.double", {"n": 2}) == 4


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ("text", "Expected `int`, got `str`"),
        (None, "Expected `int`, got `null`"),
        (object(), "no JSON form"),
        (float("inf"), "infinite"),
        ("a\x00", "NUL"),
    ],
)
async def test_a_result_that_does_not_fit_is_a_clear_error_and_the_server_lives(
    bus: pgbus.Bus, result: object, reason: str
) -> None:
    @bus.procedure("bad.result")
    async def bad() -> int:
        return result  # type: ignore[return-value] # that is the point

    @bus.procedure("good.one")
    async def good() -> int:
        return 1

    async with running(bus):
        with pytest.raises(pgbus.InvalidResult, match=reason):
            await bus.call("bad.result")
        assert await bus.call("good.one") == 1


async def test_what_is_too_large_is_refused_on_either_side(database: str) -> None:
    async with open_bus(database, rpc_max_payload=1000) as bus:

        @bus.procedure("grow.text")
        async def grow(text: str) -> str:
            return 2 * text

        async with running(bus):
            with pytest.raises(pgbus.InvalidArguments, match="limit is 1000 bytes"):
                await bus.call("grow.text", {"text": "x" * 1000})
            with pytest.raises(pgbus.InvalidResult, match="limit is 1000 bytes"):
                await bus.call("grow.text", {"text": "x" * 600})


async def test_a_declaration_that_cannot_work_is_refused(bus: pgbus.Bus) -> None:
    class Opaque: ...

    async def takes(what: Opaque) -> None: ...
    async def returns() -> Opaque:
        return Opaque()

    async def positional(a: int, /) -> None: ...
    async def fine() -> None: ...

    for handler, reason in ((takes, "'what' is annotated"), (returns, "returns"), (positional, "drop the '/'")):
        with pytest.raises(ConfigurationError, match=reason):
            bus.procedure("a.b")(handler)
    for name in ("plain", "", "a b.c", "a..b"):
        with pytest.raises(ConfigurationError, match="procedure"):
            bus.procedure(name)(fine)
    with pytest.raises(ConfigurationError, match="concurrency"):
        bus.procedure("a.b", concurrency=0)(fine)
    with pytest.raises(ConfigurationError, match="timeout"):
        bus.procedure("a.b", timeout=0)(fine)
    bus.procedure("a.b")(fine)
    with pytest.raises(DuplicateProcedureName):
        bus.procedure("a.b")(fine)
