"""Checks of the server that an event's safety rests on: its version, durability, indexes, sequences and rights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pgbus.database.migrate.versions import find_encoding_fault
from pgbus.database.statements import doctor
from pgbus.database.statements.doctor import CollationDrift, Installation, MissingGrant, PublicRight, SequenceUse
from pgbus.doctor.checks import Check, Group, Judgement, Patient, fault, listed, ok, skipped, warning

OLDEST = 14
"""The oldest major version of PostgreSQL that pgbus runs on."""
MINORS = {14: 20, 15: 15, 16: 11, 17: 7, 18: 1}
"""The first minor version of each major one in which LISTEN does not miss a notification at a session's start."""

_SETTINGS = ("server_version_num", "server_encoding", "fsync", "full_page_writes", "synchronous_commit")
_SINCE_COLLATION_VERSIONS = 15


@dataclass(frozen=True, slots=True)
class Safety:
    """The evidence; `drift` is None on servers that do not record the version of the database's collation."""

    namespace: str
    settings: Mapping[str, str]
    drift: tuple[CollationDrift, ...] | None
    sequences: tuple[SequenceUse, ...]
    invalid_indexes: tuple[str, ...]
    public: tuple[PublicRight, ...]
    missing: tuple[MissingGrant, ...]
    installation: Installation


async def read(patient: Patient) -> Safety:
    """Return settings, catalogs and rights."""
    store = patient.store
    return Safety(
        namespace=store.namespace,
        settings=await doctor.read_server_settings(store, _SETTINGS),
        drift=(
            await doctor.find_collation_drift(store) if patient.server_version >= _SINCE_COLLATION_VERSIONS else None
        ),
        sequences=await doctor.read_sequences(store),
        invalid_indexes=await doctor.find_invalid_indexes(store),
        public=await doctor.find_public_rights(store),
        missing=await doctor.find_missing_grants(store),
        installation=await doctor.read_installation(store),
    )


def _judge_version(found: Safety) -> Judgement:
    major, minor = divmod(int(found.settings["server_version_num"]), 10_000)
    if major < OLDEST:
        return fault(f"PostgreSQL {major} is older than {OLDEST}, the oldest that pgbus runs on", "upgrade the server")
    if minor < MINORS.get(major, 0):
        return warning(
            f"PostgreSQL {major}.{minor} can miss a notification at the start of a session, which "
            f"{major}.{MINORS[major]} mends",
            f"upgrade the server to {major}.{MINORS[major]} or newer",
        )
    return ok(f"PostgreSQL {major}.{minor}")


def _judge_durability(found: Safety) -> Judgement:
    off = [name for name in ("fsync", "full_page_writes") if found.settings[name] != "on"]
    if off:
        return fault(f"{' and '.join(off)} off: a crash of the machine loses committed events",
                     f"ALTER SYSTEM SET {off[0]} = on")  # fmt: skip
    if found.settings["synchronous_commit"] == "off":
        return warning(
            "synchronous_commit is off: a crash of the server loses the newest events, which were committed",
            "ALTER ROLE CURRENT_USER SET synchronous_commit = on",
        )
    return ok("a commit reaches the disk")


def _judge_encoding(found: Safety) -> Judgement:
    wrong = find_encoding_fault(found.settings["server_encoding"])
    return warning(wrong, "CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0") if wrong else ok("UTF8")


def _judge_collation(found: Safety) -> Judgement:
    if found.drift is None:
        return skipped(f"PostgreSQL records it from {_SINCE_COLLATION_VERSIONS} on")
    if not found.drift:
        return ok("the rules of the collation have not changed")
    one = found.drift[0]
    return fault(
        f"the collation of the database {one.name} has version {one.actual}, its indexes were built with "
        f"{one.recorded}: they may miss rows",
        f"REINDEX DATABASE {one.name}; ALTER DATABASE {one.name} REFRESH COLLATION VERSION",
    )


def _judge_sequences(found: Safety) -> Judgement:
    known = [one for one in found.sequences if one.readable]
    behind = [one for one in known if one.behind]
    if behind:
        return fault(
            f"{behind[0].name} is {behind[0].behind:,} behind the ids that exist, as after a logical copy: publishing "
            "fails until a new leader sets it forward",
            "restart the workers",
        )
    most = max(known, key=lambda one: one.used, default=None)
    if most and most.used > 0.8:
        return warning(
            f"{most.name} has used {most.used:.0%} of its range",
            f"ALTER SEQUENCE {found.namespace}.{most.name} AS bigint",
        )
    if hidden := [one.name for one in found.sequences if not one.readable]:
        admin = f"{found.namespace}_admin"
        return skipped(
            f"this user may not read {listed(hidden)}: the role {admin} has the right to it; have `GRANT {admin} TO` "
            "this user run"
        )
    return ok("sequences have room")


def _judge_indexes(found: Safety) -> Judgement:
    if found.invalid_indexes:
        first = found.invalid_indexes[0]
        return fault(
            f"the server does not use {listed(found.invalid_indexes)}, whose creation failed",
            f"REINDEX INDEX CONCURRENTLY {found.namespace}.{first}",
        )
    return ok("all indexes are valid")


def _judge_public(found: Safety) -> Judgement:
    if found.public:
        first = found.public[0]
        rights = listed([f"{one.privilege} on {one.name}" for one in found.public])
        kind = "FUNCTION " if first.name.endswith("()") else "SCHEMA " if first.privilege == "CREATE" else ""
        name = first.name.removesuffix("()")
        full = name if kind == "SCHEMA " else f"{found.namespace}.{name}"
        return warning(
            f"every user of the database has {rights}", f"REVOKE {first.privilege} ON {kind}{full} FROM PUBLIC"
        )
    return ok("no rights of PUBLIC")


def _judge_grants(found: Safety) -> Judgement:
    if found.missing:
        rights = listed([f"{one.role} lacks {one.privilege} on {one.name}" for one in found.missing])
        return fault(rights, "pgbus db roles")
    return ok("the bus's roles have their rights, as far as they are there")


def _judge_copy(found: Safety) -> Judgement:
    here = found.installation
    if paused := [*here.listeners, *here.schedules]:
        return warning(
            f"this database is a copy, so that a worker has paused {listed(paused)}",
            "pgbus db adopt",
        )
    if here.system_identifier is None:
        return skipped("the owner of the schema may not call pg_control_system()")
    if here.is_copy:
        return warning(
            "this database is a copy: the first worker that starts pauses all listeners and schedules", "pgbus db adopt"
        )
    return ok("this database is the one in which workers have run" if here.known_system else "no worker ever ran here")


GROUP = Group(
    "safety",
    read,
    (
        Check("version", "Old minor versions can miss a notification", _judge_version),
        Check("durability", "A commit that is not on the disk is lost in a crash", _judge_durability),
        Check("encoding", "Only UTF8 stores every event", _judge_encoding),
        Check("collation", "An index that was built with other sorting rules misses rows", _judge_collation),
        Check("sequences", "A sequence at its end, or behind its rows, makes publishing fail", _judge_sequences),
        Check("indexes", "An invalid index slows down writes and helps no query", _judge_indexes),
        Check("public-rights", "Rights of PUBLIC let every user read or change events", _judge_public),
        Check("copy", "A copy for tests must not repeat what the original does, such as sending e-mails", _judge_copy),
        Check("grants", "A role without its rights cannot work", _judge_grants),
    ),
)
