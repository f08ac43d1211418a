"""`pgbus schema` as a program, beside a bus module, against a database that workers have told of their schemas."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

import pgbus
from pgbus import Api, Event, Parameter
from pgbus.admin import Admin
from tests.examples.documents import outline, shown
from tests.support import ROOT
from tests.support.programs import run_program
from tests.support.workers import open_bus, running

MODULE = """
from dataclasses import dataclass

import pgbus
from pgbus import Api, Event, Parameter


@dataclass
class User:
    username: str
    email: str = ""


class AuthApi(Api):
    user_created = Event(parameters=(Parameter("username", str), Parameter("is_admin", bool, default=False)))

    class Meta:
        name = "auth"

    def check_password(self, username: str, password: str) -> bool:
        return True

    def find(self, user: User, limit: int | None = None) -> list[User]:
        return []


bus = pgbus.create(service_name="auth")
bus.client.register_api(AuthApi())
"""


PAGE = ROOT / "docs" / "how-to" / "check-schemas-in-ci.md"


class AuthApi(Api):
    user_created = Event(parameters=(Parameter("username", str), Parameter("email", str)))

    class Meta:
        name = "auth"

    def check_password(self, username: str) -> bool:
        return True

    def forget(self) -> None: ...


@pytest.fixture
def module(tmp_path: Path) -> Path:
    (tmp_path / "bus.py").write_text(MODULE)
    return tmp_path


def schema(module: Path, *arguments: str, dsn: str = "", code: int = 0) -> str:
    answer = run_program("schema", *arguments, cwd=module, environ={"PGBUS_DSN": dsn} if dsn else {})
    assert answer.returncode == code, answer.stderr
    return answer.stdout


async def publish(dsn: str) -> None:
    """Have a worker say what `auth` was like, and another one listen to it."""

    def welcome(event: pgbus.EventMessage, username: str, email: str) -> None: ...

    async with open_bus(dsn, service_name="auth") as bus, open_bus(dsn, service_name="mail") as mail:
        bus.client.register_api(AuthApi())
        mail.auth.user_created.listen(welcome, listener_name="welcome")
        async with running(bus), running(mail):
            pass


def test_dump_local_needs_no_database(module: Path) -> None:
    found = json.loads(schema(module, "dump", "--local"))
    assert set(found) == {"auth"}
    assert set(found["auth"]) == {"events", "rpcs"}
    assert found["auth"]["rpcs"]["check_password"]["parameters"]["required"] == ["username", "password"]
    assert found["auth"]["events"]["user_created"]["parameters"]["title"] == "Event auth.user_created parameters"


async def test_dump_writes_what_the_database_holds(module: Path, database: str) -> None:
    await publish(database)
    found = json.loads(schema(module, "dump", dsn=database))
    assert set(found["auth"]["rpcs"]) == {"check_password", "forget"}
    answer = run_program("schema", "dump", "--out", "apis/", cwd=module, environ={"PGBUS_DSN": database})
    assert "saved to apis/" in answer.stderr
    assert json.loads((module / "apis" / "auth.json").read_text()) == {"auth": found["auth"]}
    schema(module, "dump", "-o", "all.json", dsn=database)
    assert json.loads((module / "all.json").read_text()) == found


async def test_check_refuses_what_breaks_a_listener_or_a_caller(module: Path, database: str) -> None:
    await publish(database)
    said = schema(module, "check", dsn=database, code=1)
    assert [*map(outline, said.splitlines())] == [*map(outline, shown(PAGE, "of service mail: event"))]
    found = {
        one["name"]: one
        for one in map(json.loads, schema(module, "check", "--json", dsn=database, code=1).splitlines())
    }
    assert found["auth.check_password"]["reasons"] == ["`password` is needed, and is missing"]
    assert found["auth.forget"]["reasons"] == ["it is not served any more"]
    assert "auth.find" not in found


async def test_check_passes_code_that_fits(module: Path, database: str) -> None:
    assert schema(module, "check", dsn=database) == "nothing would break\n"


def test_check_refuses_a_listener_that_could_not_read_an_event_of_others(module: Path) -> None:
    schema(module, "dump", "--local", "-o", "others.json")
    code = """
import pgbus

bus = pgbus.create()


@bus.listener("auth.user_created", name="mail")
def mail(event: User) -> None: ...
"""
    user = "class User:\n    username: str\n    email: str\n"
    (module / "bus.py").write_text(f"from dataclasses import dataclass\n\n@dataclass\n{user}{code}")
    said = schema(module, "check", "--against", "others.json", code=1)
    assert said == "breaks listener mail: event auth.user_created\n    `email` is needed, and is missing\n"


def test_check_refuses_a_listener_whose_handler_takes_another_event(module: Path) -> None:
    schema(module, "dump", "--local", "-o", "others.json")
    code = """
from dataclasses import dataclass

import pgbus

bus = pgbus.create()


@pgbus.event("stock.reserved")
@dataclass
class Reserved:
    n: int


@bus.listener("auth.user_created", name="mail")
def mail(event: Reserved) -> None: ...
"""
    (module / "bus.py").write_text(code)
    answer = run_program("schema", "check", "--against", "others.json", cwd=module, environ={})
    assert answer.returncode == 2
    assert "the handler takes Reserved, of which no topic" in answer.stderr


def test_check_and_diff_compare_with_files(module: Path) -> None:
    schema(module, "dump", "--local", "-o", "before.json")
    assert schema(module, "check", "--against", "before.json") == "nothing would break\n"
    assert schema(module, "diff", "--against", "before.json") == "no event and no procedure changed\n"
    changed = MODULE.replace("password: str)", "password: str, code: int = 0)").replace(
        'Parameter("username", str), ', ""
    )
    (module / "bus.py").write_text(changed)
    said = schema(module, "check", "--against", "before.json", code=1)
    assert said == ("breaks its listeners: event auth.user_created\n    `username` is needed, and is missing\n")
    assert schema(module, "diff", "--against", "before.json").splitlines() == [
        "~ event auth.user_created",
        "    - username: string",
        "    breaks its listeners: `username` is needed, and is missing",
        "~ procedure auth.check_password",
        "    + code: integer, optional",
    ]
    [event, _] = map(json.loads, schema(module, "diff", "--json", "--against", "before.json").splitlines())
    assert event["change"] == "changed"
    assert len(event["breaks"]) == 1


async def test_diff_tells_what_came_and_went(module: Path, database: str) -> None:
    await publish(database)
    said = schema(module, "diff", dsn=database)
    assert [*map(outline, said.splitlines())] == [*map(outline, shown(PAGE, "~ event auth.user_created"))]


def test_a_file_that_is_not_there_is_one_line(module: Path) -> None:
    answer = run_program("schema", "check", "--against", "nothing.json", cwd=module)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr == "pgbus: cannot read nothing.json: No such file or directory\n"


# ---------------------------------------------------------------------------------------------------------------- stubs

RIGHT = """
import asyncio
from bus import bus

ok: bool = bus.auth.check_password(username="a", password="b")
bus.auth.check_password.call(username="a", password="b", bus_options={"timeout": 1})
for user in bus.auth.find(user={"username": "a"}):
    name: str = user["username"]
bus.auth.user_created.fire(username="a", is_admin=True)
bus.auth.user_created.fire(username="a", using=None)
def heard(event: object, username: str) -> None: ...
bus.auth.user_created.listen(heard, listener_name="x")
bus.auth.check_password.validate_parameters({"username": "a"})
bus.auth.find.response_schema["title"]
async def main() -> None:
    fine: bool = await bus.auth.check_password.call_async(username="a", password="b")
    await bus.auth.user_created.fire_async(username="a")
    await bus.auth.user_created.listen_async(heard)
    await bus.publish({}, topic="a.b")
"""
WRONG = {
    'bus.auth.check_password(username="a")': "Missing named argument",
    'bus.auth.check_password(username="a", password=1)': 'expected "str"',
    'bus.auth.check_password(username="a", password="b", code=1)': "Unexpected keyword argument",
    'bus.auth.check_password("a", "b")': "Too many positional arguments",
    'bus.auth.chek_password(username="a", password="b")': 'has no attribute "chek_password"',
    'x: str = bus.auth.check_password(username="a", password="b")': 'variable has type "str"',
    'bus.auth.find(user={"name": "a"})': "TypedDict",
    "bus.auth.user_created.fire(username=1)": 'expected "str"',
    'bus.auth.user_created.fire(username="a", admin=True)': "Unexpected keyword argument",
    'bus.auth.user_created.call(username="a")': 'has no attribute "call"',
}


def type_check(directory: Path, *programs: str) -> list[str]:
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", "bus.pyi", *programs]
    answer = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=180, check=False)
    return answer.stdout.splitlines()


def test_stubs_tell_a_type_checker_right_calls_from_wrong_ones(module: Path) -> None:
    schema(module, "stubs", "--local")
    (module / "right.py").write_text(RIGHT)
    (module / "wrong.py").write_text("\n".join(["from bus import bus", *WRONG]))
    *said, summary = type_check(module, "right.py", "wrong.py")
    assert "in 1 file (checked 3 source files)" in summary
    for number, (line, complaint) in enumerate(WRONG.items(), 2):
        assert any(one.startswith(f"wrong.py:{number}: error") and complaint in one for one in said), (line, said)


async def test_stubs_know_the_apis_of_other_services(module: Path, database: str) -> None:
    await publish(database)
    (module / "bus.py").write_text("import pgbus\n\nbus = pgbus.create()\n")
    text = schema(module, "stubs", "--out", "-", dsn=database)
    assert "def check_password(self) -> _AuthCheckPassword: ..." in text
    schema(module, "dump", "-o", "all.json", dsn=database)
    assert schema(module, "stubs", "--from", "all.json", "-o", "-") == text


async def test_asyncapi_shows_what_all_services_have_deployed(module: Path, database: str) -> None:
    await publish(database)
    printed = schema(module, "asyncapi", dsn=database)
    found = json.loads(printed)
    assert set(found["operations"]) >= {  # as well as those of the event classes of other tests of this process
        "auth.sends.auth.user_created",
        "mail-welcome.receives.auth.user_created",
        "auth.serves.auth.check_password",
        "auth.serves.auth.forget",
    }
    heard = found["operations"]["mail-welcome.receives.auth.user_created"]
    assert heard["x-pgbus-listener"]["on_poison"] == "dead"
    await publish(database)
    schema(module, "asyncapi", "-o", "asyncapi.json", dsn=database)
    assert (module / "asyncapi.json").read_text() == printed
    mail = json.loads(schema(module, "asyncapi", "--service", "mail", dsn=database))
    assert "mail-welcome.receives.auth.user_created" in mail["operations"]
    assert "auth.sends.auth.user_created" not in mail["operations"]
    first = json.loads(schema(module, "asyncapi", "--at", "1", dsn=database))
    assert first["info"]["version"] == "1"
    schema(module, "asyncapi", "--service", "mial", dsn=database, code=1)


async def test_eventcatalog_writes_pages(module: Path, database: str) -> None:
    await publish(database)
    schema(module, "eventcatalog", "catalog", dsn=database)
    services = module / "catalog" / "services"
    assert {path.name for path in services.iterdir()} == {"auth", "mail"}
    created = services / "auth" / "events" / "auth.user_created"
    assert json.loads((created / "schema.json").read_text())["required"] == ["username", "email"]


async def test_what_is_said_of_a_listener_is_stored_and_may_change_without_a_new_version(database: str) -> None:
    for owner in ("mail team", "post team"):
        async with open_bus(database, service_name="mail") as bus:

            @bus.listener("auth.user_created", name="welcome")
            @pgbus.about(owner=owner, links={"runbook": "https://wiki.example/mail"})
            def welcome(event: dict[str, object]) -> None:
                """Greet them."""

            async with running(bus), Admin.connect(bus.config) as admin:
                [listener] = await admin.listeners.list()
                assert listener.owner == owner
                [stored] = [one for one in await admin.schemas() if one.kind == "listener"]
                assert (stored.version, stored.about.owner, stored.about.description) == (1, owner, "Greet them.")
                assert stored.about.links == {"runbook": "https://wiki.example/mail"}
