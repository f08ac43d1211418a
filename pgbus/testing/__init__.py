"""For the tests of those who use pgbus: a mock of the bus, and listeners that run when the test says so."""

from pgbus.testing.mocking import BusMocker, MockResult, bus_mocker

__all__ = ["BusMocker", "MockResult", "bus_mocker"]
