"""For the tests of those who use pgbus: a mock of the bus, and listeners that run when the test says so."""

from pgbus.testing.attempts import Attempt
from pgbus.testing.buses import BusUnderTest
from pgbus.testing.crashes import CrashPoints, CrashReport
from pgbus.testing.delivery import deliver_now, deliver_now_sync
from pgbus.testing.mocking import BusMocker, MockResult, bus_mocker

__all__ = [
    "Attempt", "BusMocker", "BusUnderTest", "CrashPoints", "CrashReport", "MockResult", "bus_mocker", "deliver_now",
    "deliver_now_sync",
]  # fmt: skip
