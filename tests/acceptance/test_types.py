"""Types: what is fired, called and returned arrives as what the receiver's annotations say, and nothing else does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal, NamedTuple, TypedDict

import pytest

import pgbus
from pgbus import Api, Event, Parameter
from tests.conftest import Connect
from tests.support import eventually
from tests.support.services import Services
from tests.support.waiting import PATIENCE
from tests.support.workers import Inbox, open_bus, running

MODEL = """
from dataclasses import dataclass
from typing import NamedTuple


class User(NamedTuple):
    username: str
    name: str
    email: str
    is_admin: bool = False


@dataclass
class Account:
    username: str
    is_admin: bool = False


class Money:
    def __init__(self, cents):
        self.cents = cents

    def __to_bus__(self) -> str:
        return f"{self.cents} cents"

    @classmethod
    def __from_bus__(cls, value):
        return cls(int(value.removesuffix(" cents")))

    def __repr__(self):
        return f"Money({self.cents})"


class Customer(NamedTuple):
    name: str
    email: str
    balance: Money = Money(0)
"""

AUTH = """
import sys
import pgbus
from model import Account, Customer, Money, User


def say(*words):
    sys.stdout.write(" ".join(map(str, words)) + "\\n")


class AuthApi(pgbus.Api):
    email_changed = pgbus.Event(parameters=(
        pgbus.Parameter("username", str),
        pgbus.Parameter("new_email", str),
        pgbus.Parameter("is_admin", bool, default=False),
    ))
    signed_up = pgbus.Event(parameters=(pgbus.Parameter("user", User), pgbus.Parameter("deposit", Money | None)))

    class Meta:
        name = "auth"

    def get_user(self, username: str) -> User:
        return User(username=username, name="Adam", email="adam@example.com")

    def get_account(self, username: str) -> Account:
        return Account(username, is_admin=True)

    def get_balance(self, username: str) -> Money:
        return Money(250)


class CustomerApi(pgbus.Api):
    class Meta:
        name = "customer"

    def create(self, customer: Customer) -> str:
        return repr(customer)


bus = pgbus.create()
bus.client.register_api(AuthApi())
bus.client.register_api(CustomerApi())
"""

AUDIT = """
import sys
import pgbus
from model import Money, User

bus = pgbus.create()


def say(*words):
    sys.stdout.write(" ".join(map(repr, words)) + "\\n")


def on_email_changed(event, username: str, new_email: str, is_admin: bool):
    say("changed", username, new_email, is_admin)


def on_signed_up(event, user: User, deposit: Money | None):
    say("typed", user, deposit)


def on_signed_up_plain(event, user, deposit):
    say("plain", sorted(user.items()), deposit)


@bus.client.on_start()
def on_start():
    bus.auth.email_changed.listen(on_email_changed, listener_name="changed")
    bus.auth.signed_up.listen(on_signed_up, listener_name="typed")
    bus.auth.signed_up.listen(on_signed_up_plain, listener_name="plain")
"""

FIRE = """
from bus import bus
from model import Money, User

bus.auth.email_changed.fire(username="adam", new_email="a@example.com")
bus.auth.signed_up.fire(user=User("eve", "Eve", "e@example.com", True), deposit=Money(7))
for wrong in (
    {"username": 5, "new_email": "a"},
    {"username": "adam"},
    {"username": "a", "new_email": "b", "is_admin": 1},
):
    try:
        bus.auth.email_changed.fire(**wrong)
    except Exception as error:
        print(type(error).__name__, error)
"""

CALL = """
from bus import bus
from model import Customer, Money

print(repr(bus.auth.get_user(username="adam")))
print(repr(bus.auth.get_account(username="adam")))
print(repr(bus.auth.get_balance(username="adam")))
print(bus.customer.create(customer=Customer("Adam", "a@example.com", Money(5))))
print(bus.customer.create(customer={"name": "Adam", "email": "a@example.com", "balance": "5 cents"}))
"""


async def test_types_travel_between_services(services: Services) -> None:
    """S11"""
    auth = services.write("auth", AUTH, model=MODEL)
    audit = services.write("audit", AUDIT, model=MODEL)
    async with services.worker(auth), services.worker(audit) as worker:
        refused = services.run_code(auth, FIRE).splitlines()
        await worker.says(r"^'plain'")
        await worker.says(r"^'typed'")
        await worker.says(r"^'changed'")
        in_auth = services.run_code(auth, CALL).splitlines()
        elsewhere = services.run_code(audit, CALL).splitlines()
    user = "User(username='eve', name='Eve', email='e@example.com', is_admin=True)"
    assert sorted(worker.out) == [
        "'changed' 'adam' 'a@example.com' False",
        "'plain' [('email', 'e@example.com'), ('is_admin', True), ('name', 'Eve'), ('username', 'eve')] '7 cents'",
        f"'typed' {user} Money(7)",
    ]
    assert [line.split(":")[0] for line in refused] == [
        "InvalidEventArguments username",
        "InvalidEventArguments new_email",
        "InvalidEventArguments is_admin",
    ]
    customer = "Customer(name='Adam', email='a@example.com', balance=Money(5))"
    assert in_auth == [
        "User(username='adam', name='Adam', email='adam@example.com', is_admin=False)",
        "Account(username='adam', is_admin=True)",
        "Money(250)",
        customer,
        customer,
    ]
    assert elsewhere == [  # it has no annotations of them
        "{'username': 'adam', 'name': 'Adam', 'email': 'adam@example.com', 'is_admin': False}",
        "{'username': 'adam', 'is_admin': True}",
        "'250 cents'",
        customer,
        customer,
    ]


# --------------------------------------------------------------------------------------------------- what does not fit


class Item(NamedTuple):
    name: str
    amount: int


class ShopApi(Api):
    sold = Event(parameters=(Parameter("item", Item),))

    class Meta:
        name = "shop"

    async def take(self, item: Item, tags: list[str] | None = None) -> int:
        return item.amount

    async def lie(self, count: int) -> int:
        return "many"  # type: ignore[return-value] # what it is about

    async def bring(self) -> Any:
        return {"item": object()}

    def bring_late(self) -> list[Item]:
        return [Item("a", None)]  # type: ignore[arg-type] # the same


@pytest.fixture
async def shop(database: str) -> AsyncIterator[pgbus.Bus]:
    async with open_bus(database) as bus:
        bus.client.register_api(ShopApi())
        yield bus


async def test_a_call_that_does_not_fit_is_a_typed_error_at_once_and_the_worker_lives(
    shop: pgbus.Bus, database: str
) -> None:
    """N4: arguments, results that do not fit or have no JSON form; from a caller who knows nothing of the API."""
    item = Item("pen", 3)
    async with (
        asyncio.timeout(PATIENCE),
        running(shop),
        open_bus(database) as stranger,
        open_bus(database, apis={"shop": {"validate": {"outgoing": False}}}) as unchecked,
    ):
        for arguments, reason in (
            ({"item": {"name": "pen", "amount": "3"}}, r"item\.amount: Expected `int`, got `str`"),
            ({"item": {"name": "pen"}}, "item: Object missing required field `amount`"),
            ({"item": item, "tags": ["a", 5]}, r"tags\[1\]: Expected `str`, got `int`"),
            ({"item": item, "itme": item}, "Object contains unknown field `itme`"),
        ):
            with pytest.raises(pgbus.InvalidArguments, match=reason) as refused:
                await shop.shop.take.call_async(**arguments)
            assert isinstance(refused.value, pgbus.ValidationError)
            # Where the API is not registered, the schema that the worker stored says it, or the worker itself.
            with pytest.raises(pgbus.InvalidArguments, match=r"item|tags|itme"):
                await stranger.shop.take.call_async(**arguments)
            with pytest.raises(pgbus.InvalidArguments, match=reason):
                await unchecked.shop.take.call_async(**arguments)
        with pytest.raises(pgbus.InvalidResult, match=r"shop\.lie returned a value that does not fit its annotation"):
            await stranger.shop.lie.call_async(count=1)
        with pytest.raises(pgbus.InvalidResult, match=r"`item` is of <class 'object'>, which has no JSON form"):
            await stranger.shop.bring.call_async()
        with pytest.raises(pgbus.InvalidResult, match=r"\[0\]\.amount: Expected `int`, got `null`"):
            await stranger.shop.bring_late.call_async()
        assert await stranger.shop.take.call_async(item=item) == 3


async def test_what_cannot_be_put_into_json_is_a_deform_error_and_is_not_sent(
    shop: pgbus.Bus, database: str, connect: Connect
) -> None:
    for send in (
        shop.shop.sold.fire_async(item={"name": object(), "amount": 1}),
        shop.shop.take.call_async(item=Item(object(), 1)),  # type: ignore[arg-type] # what it is about
        shop.publish({"a": [object()]}, topic="shop.opened"),
    ):
        with pytest.raises(pgbus.DeformError, match="has no JSON form") as refused:
            await send
        assert refused.value.field in ("item", "arguments", "payload")
    connection = await connect(database)
    assert (
        await connection.fetchval(
            "SELECT (SELECT count(*) FROM pgbus.outbox) + (SELECT count(*) FROM pgbus.rpc_requests)"
        )
        == 0
    )


async def test_an_event_that_does_not_fit_is_dead_at_the_first_attempt_and_says_where(
    shop: pgbus.Bus, database: str, connect: Connect
) -> None:
    """N3, of types."""
    inbox: Inbox[Item] = Inbox()

    def handle(item: Item) -> None:
        inbox.put(item)

    shop.shop.sold.listen(handle, listener_name="sold")
    connection = await connect(database)
    async with running(shop):
        await shop.publish({"item": {"name": "pen", "amount": "many"}}, topic="shop.sold")
        await shop.shop.sold.fire_async(item=Item("pen", 3))
        assert await inbox.take(1) == [Item("pen", 3)]

        async def dead() -> Any:
            return await connection.fetch("SELECT error, attempts FROM pgbus.dead_letters")

        [row] = await eventually(dead)
    assert "its argument 'item' does not fit: item.amount: Expected `int`, got `str`" in row["error"]


# ------------------------------------------------------------------------------------------- what Lightbus cannot do


class Line(TypedDict):
    sku: str
    price: Decimal


@dataclass
class Basket:
    lines: list[Line] = field(default_factory=list)
    sizes: tuple[int, ...] = ()
    labels: frozenset[str] = frozenset()


class TillApi(Api):
    paid = Event(
        parameters=(
            Parameter("basket", Basket),
            Parameter("by", Literal["card", "cash"], default="card"),
            Parameter("tip", int | None),
            Parameter("steps", tuple[int, ...]),
        )
    )

    class Meta:
        name = "till"

    async def echo(
        self, basket: Basket, by: Literal["card", "cash"], tip: int | None, steps: tuple[int, ...]
    ) -> tuple[Basket, str, int | None, tuple[int, ...]]:
        return basket, by, tip, steps


async def test_modern_annotations_hold_on_every_way(database: str) -> None:
    """N17: `int | None`, `Literal`, `default_factory`, `tuple[int, ...]`; also a TypedDict and a frozenset."""
    inbox: Inbox[tuple[Any, ...]] = Inbox()

    def handle(basket: Basket, by: Literal["card", "cash"], tip: int | None, steps: tuple[int, ...]) -> None:
        inbox.put((basket, by, tip, steps))

    basket = Basket([Line(sku="a", price=Decimal("1.10"))], (1, 2, 3), frozenset({"x"}))
    async with open_bus(database) as bus:
        bus.client.register_api(TillApi())
        bus.till.paid.listen(handle, listener_name="paid")
        async with running(bus):
            await bus.till.paid.fire_async(basket=basket, steps=(1, 2))
            await bus.till.paid.fire_async(basket={}, by="cash", tip=3, steps=[])
            heard = sorted(await inbox.take(2), key=lambda arguments: str(arguments[1]))  # two threads may handle them
            assert heard == [(basket, "card", None, (1, 2)), (Basket(), "cash", 3, ())]
            for wrong in ({"by": "cheque"}, {"tip": "3"}, {"steps": (1, "b")}, {"basket": {"sizes": ["s"]}}):
                arguments: dict[str, Any] = {"basket": basket, "by": "cash", "tip": 1, "steps": (), **wrong}
                with pytest.raises(pgbus.InvalidEventArguments) as refused:
                    await bus.till.paid.fire_async(**arguments)
                assert refused.value.field == next(iter(wrong))
                with pytest.raises(pgbus.InvalidArguments, match=next(iter(wrong))):
                    await bus.till.echo.call_async(**arguments)
            arguments = {"basket": basket, "by": "cash", "tip": None, "steps": (3,)}
            assert await bus.till.echo.call_async(**arguments) == (basket, "cash", None, (3,))
