"""Operators' verbs: how the bus is doing, what happened to an event, and the changes that a person makes."""

from pgbus.admin.conditions import Condition
from pgbus.admin.filters import CallFilter, DeadFilter, EventFilter
from pgbus.admin.name_filter import Names
from pgbus.admin.verbs import Activity, Admin, BusStatus
from pgbus.database.statements.activity import Failure, ListenerMeasure, RunningCall
from pgbus.database.statements.inspection import (
    Attempt,
    CallRecord,
    DeadGroup,
    DeadLetter,
    EventRecord,
    GivenUp,
    ListenerStatus,
    Owed,
    WorkerStatus,
)
from pgbus.database.statements.operations import Operation, OperationFilter, OperationItem, OperationStep, Preview
from pgbus.database.statements.timetable import ScheduleRun, ScheduleStatus

__all__ = [
    "Activity",
    "Admin",
    "Attempt",
    "BusStatus",
    "CallFilter",
    "CallRecord",
    "Condition",
    "DeadFilter",
    "DeadGroup",
    "DeadLetter",
    "EventFilter",
    "EventRecord",
    "Failure",
    "GivenUp",
    "ListenerMeasure",
    "ListenerStatus",
    "Names",
    "Operation",
    "OperationFilter",
    "OperationItem",
    "OperationStep",
    "Owed",
    "Preview",
    "RunningCall",
    "ScheduleRun",
    "ScheduleStatus",
    "WorkerStatus",
]
