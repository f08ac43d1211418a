"""The whole examination: every group of checks, each on its own, so that one that fails hides no other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from pgbus.config import Config
from pgbus.database.faults import DATABASE_ERRORS, SyntaxOrAccess
from pgbus.database.migrate import check_async
from pgbus.database.migrate.sessions import session
from pgbus.database.store import Store
from pgbus.doctor import connections, flow, horizon, notifications, plans, safety, tables
from pgbus.doctor.checks import AnyGroup, Finding, Patient
from pgbus.errors import PrivilegeError

GROUPS: tuple[AnyGroup, ...] = (
    flow.GROUP, notifications.GROUP, connections.GROUP, horizon.GROUP, tables.GROUP, plans.GROUP, safety.GROUP,
)  # fmt: skip
CHECKS = tuple(check for group in GROUPS for check in group.checks)

PATIENCE = 1.5
"""Seconds that the server may take for one statement; the checks that need its answer are skipped then."""


@dataclass(frozen=True, slots=True)
class Examination:
    """All findings, in the order of the groups."""

    findings: tuple[Finding, ...]

    @property
    def faults(self) -> list[Finding]:
        """The findings that are wrong now."""
        return [one for one in self.findings if one.verdict == "fault"]

    @property
    def warnings(self) -> list[Finding]:
        """The findings that someone should look at in the next days."""
        return [one for one in self.findings if one.verdict == "warning"]


async def examine(
    config: Config,
    *,
    groups: Sequence[AnyGroup] = GROUPS,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Examination:
    """Make every check of the groups on the configured database, over sessions of its own.

    Raises DatabaseUnreachableError, and SchemaVersionError if the schema does not fit this code.
    """
    async with session(config.session_dsn, statement_cache_size=0) as connection:
        await check_async(connection, namespace=config.namespace)
        store = Store(connection, namespace=config.namespace)
        patient = Patient(config, connection, store, connection.get_server_version().major, clock)
        return Examination(tuple([finding for group in groups for finding in await _find(group, patient)]))


async def _find(group: AnyGroup, patient: Patient) -> list[Finding]:
    try:
        # A transaction for each group: what fails in it skips its own checks only, and behind a pooler its settings
        # are nobody else's.
        async with patient.connection.transaction():
            await patient.connection.execute(
                f"SET LOCAL statement_timeout = {int(PATIENCE * 1000)}; SET LOCAL jit = off"
            )
            evidence = await group.read(patient)
    except PrivilegeError as error:
        return group.skip(str(error))
    except SyntaxOrAccess as error:
        return group.skip(f"the schema is not as this version reads it; `pgbus db upgrade` mends an older one: {error}")
    except DATABASE_ERRORS as error:
        return group.skip(f"the server did not answer: {error}")
    return group.judge(evidence)
