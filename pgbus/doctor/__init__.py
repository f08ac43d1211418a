"""An examination of a bus and its database: each fault with its evidence, and the one command that repairs it."""

from pgbus.doctor.checks import Check, Finding, Verdict
from pgbus.doctor.examination import CHECKS, Examination, examine

__all__ = ["CHECKS", "Check", "Examination", "Finding", "Verdict", "examine"]
