"""Crash tests of a handler: it is killed before and after each of its statements, and what is left is compared."""

from pgbus.testing.crashes.crash_points import CrashPoints, Prepare
from pgbus.testing.crashes.report import CrashReport, Finding, Point

__all__ = ["CrashPoints", "CrashReport", "Finding", "Point", "Prepare"]
