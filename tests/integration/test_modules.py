"""`import_bus_module` and `get_bus`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import pgbus


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """On Python's path, and the working directory."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PGBUS_MODULE", raising=False)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_the_bus_of_the_module_bus_is_the_default(directory: Path) -> None:
    (directory / "bus.py").write_text("import pgbus\nbus = pgbus.create(namespace='mine')")
    module = pgbus.import_bus_module()
    assert module.__name__ == "bus"
    assert pgbus.get_bus() is module.bus
    assert pgbus.get_bus().config.namespace == "mine"


def test_another_module_and_another_bus_of_it_can_be_named(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "shop").mkdir()
    (directory / "shop" / "events.py").write_text("import pgbus\nbus = pgbus.create()\nother = pgbus.create()")
    module = pgbus.import_bus_module("shop.events:other")
    assert pgbus.get_bus("shop.events") is module.bus
    assert pgbus.get_bus("shop.events:other") is module.other
    monkeypatch.setenv("PGBUS_MODULE", "shop.events:other")
    assert pgbus.import_bus_module() is module
    assert pgbus.get_bus() is module.other


def test_a_module_that_is_not_there_is_told_by_its_name(directory: Path) -> None:
    with pytest.raises(pgbus.FailedToImportBusModule, match="there is no module 'bus' in") as caught:
        pgbus.get_bus()
    assert caught.value.__cause__ is None
    with pytest.raises(pgbus.FailedToImportBusModule, match=r"there is no module 'shop\.bus' in"):
        pgbus.import_bus_module("shop.bus")
    with pytest.raises(pgbus.FailedToImportBusModule, match="is not the name of a module"):
        pgbus.import_bus_module("bus.py")


@pytest.mark.parametrize("source", ["import nothing_of_that_name", "1 / 0", "(", "raise ModuleNotFoundError"])
def test_what_the_module_raised_is_the_cause(directory: Path, source: str) -> None:
    (directory / "bus.py").write_text(source)
    with pytest.raises(pgbus.FailedToImportBusModule, match="module 'bus' cannot be imported: ") as caught:
        pgbus.get_bus()
    assert isinstance(caught.value.__cause__, ImportError | ZeroDivisionError | SyntaxError)


def test_a_wrong_declaration_in_the_module_is_raised_as_it_is(directory: Path) -> None:
    (directory / "bus.py").write_text("import pgbus\nbus = pgbus.create(leese=1)")
    with pytest.raises(pgbus.ConfigurationError, match="leese"):
        pgbus.get_bus()


@pytest.mark.parametrize(
    ("source", "name", "message"),
    [
        ("", "bus", "has no 'bus'; name the bus, as in `bus:BUS`"),
        ("bus = 1", "bus", "'bus' in module 'bus' is of type int, not a bus"),
        ("bus = 1", "bus:other", "has no 'other'"),
    ],
)
def test_a_module_without_a_bus_is_told_apart(directory: Path, source: str, name: str, message: str) -> None:
    (directory / "bus.py").write_text(source)
    for load in (pgbus.get_bus, pgbus.import_bus_module):
        with pytest.raises(pgbus.NoBusFoundInBusModule, match=message):
            load(name)
