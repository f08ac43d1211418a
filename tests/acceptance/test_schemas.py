"""S17: the schemas of a bus in production are dumped, and another service works with them; in real processes."""

from __future__ import annotations

import json
import shlex
import sys

from tests.support import eventually
from tests.support.programs import PROGRAM
from tests.support.services import Services
from tests.support.waiting import PATIENCE

AUTH = """
    import pgbus
    from pgbus import Api, Event, Parameter


    class AuthApi(Api):
        user_registered = Event(parameters=(Parameter("username", str), Parameter("email", str)))

        class Meta:
            name = "auth"

        def check_password(self, username: str, password: str) -> bool:
            return username == "admin" and password == "secret"


    bus = pgbus.create(service_name="auth")
    bus.client.register_api(AuthApi())
"""
SHOP = """
    import pgbus

    bus = pgbus.create(service_name="shop")
"""
VALIDATE = """
    from bus import bus
    from pgbus import ValidationError

    bus.auth.check_password.validate_parameters({"username": "admin", "password": "secret"})
    bus.auth.check_password.validate_response(True)
    bus.auth.user_registered.validate_parameters({"username": "ann", "email": "ann@example.com"})
    known = {"username": "admin", "password": "secret"}
    for wrong in ({"username": "admin"}, {**known, "password": 1}, {**known, "code": 1}):
        try:
            bus.auth.check_password.validate_parameters(wrong)
        except ValidationError as error:
            print("refused", error)
    try:
        bus.auth.check_password.validate_response("yes")
    except ValidationError as error:
        print("refused", error)
"""


async def test_a_dump_of_production_is_worked_with_elsewhere(services: Services) -> None:
    """S17: dumped to a file and to a directory, loaded by `run --schema` or by `load_local`, validated by path."""
    auth, shop = services.write("auth", AUTH), services.write("shop", SHOP)
    async with services.worker(auth):
        for destination in ("all.json", "schemas/"):
            answer = services.command(shop, "schema", "dump", "--out", destination)
            assert (answer.stdout, answer.stderr) == ("", f"Schema for 1 API saved to {destination}\n")
    dumped = json.loads((shop / "all.json").read_text())
    assert set(dumped["auth"]["events"]) == {"user_registered"}
    assert json.loads((shop / "schemas" / "auth.json").read_text()) == {"auth": dumped["auth"]}
    await services.connection.execute("DELETE FROM pgbus.schemas")  # the bus of a laptop knows nothing of production

    for source in ("all.json", "schemas"):
        load = f"from bus import bus; bus.schema.load_local({source!r})"
        said = services.run_code(shop, VALIDATE.replace("from bus import bus", load)).splitlines()
        assert [line.split()[0] for line in said] == ["refused"] * 4
        assert "password" in said[0]

    services.write("shop", SHOP + VALIDATE_AT_START)
    async with services.worker(shop, "--schema", "schemas") as worker:
        await worker.says("needs username, password")
    from_stdin = ("sh", "-c", f"exec {shlex.quote(PROGRAM)} run --schema - < all.json")
    async with services.process(*from_stdin, cwd=shop) as worker:
        await worker.says("needs username, password")
        worker.child.terminate()
        assert await worker.ends() == 0


VALIDATE_AT_START = """
    def on_start():
        names = bus.auth.check_password.parameter_schema["required"]
        print("needs", ", ".join(names), flush=True)
"""


async def test_schemas_are_kept_when_their_service_stops(services: Services) -> None:
    """On Lightbus they are gone a minute later."""
    auth, shop = services.write("auth", AUTH), services.write("shop", SHOP)
    live = "SELECT bool_and(is_live) FROM pgbus.schema_versions WHERE api = 'auth' AND service = 'auth'"
    async with services.worker(auth):
        assert await services.connection.fetchval(live) is True
    assert await services.connection.fetchval(live) is False
    said = services.run_code(shop, VALIDATE).splitlines()
    assert [line.split()[0] for line in said] == ["refused"] * 4
    stored = json.loads(services.pgbus(shop, "schema", "dump"))
    assert stored["auth"]["rpcs"]["check_password"]["response"]["type"] == "boolean"


WATCH = """
    import sys
    import time
    from bus import bus

    bus.auth.check_password(username="admin", password="secret")
    print(sorted(bus.auth.check_password.parameter_schema["properties"]), flush=True)
    while "code" not in bus.auth.check_password.parameter_schema["properties"]:
        time.sleep(0.01)
    print("changed", flush=True)
"""


async def test_a_running_process_is_told_of_a_new_version(services: Services) -> None:
    auth, shop = services.write("auth", AUTH), services.write("shop", SHOP, watch=WATCH)
    async with services.worker(auth), services.process(sys.executable, "watch.py", cwd=shop) as watcher:
        assert await watcher.line() == "['password', 'username']"
        newer = services.write("newer", AUTH.replace("password: str)", "password: str, code: int = 0)"))
        async with services.worker(newer):
            assert await watcher.line() == "changed"
            versions = (
                "SELECT array_agg(version ORDER BY version) FROM pgbus.schema_versions WHERE is_live AND name = $1"
            )
            assert await services.connection.fetchval(versions, "auth.check_password") == [1, 2]
        await eventually(lambda: watcher.child.returncode is not None, PATIENCE)


async def test_check_refuses_a_deploy_that_breaks_a_running_listener(services: Services) -> None:
    mail = """
        import pgbus

        bus = pgbus.create(service_name="mail")

        def welcome(event, username: str, email: str):
            print(email, flush=True)

        bus.auth.user_registered.listen(welcome, listener_name="welcome")
    """
    auth = services.write("auth", AUTH)
    async with services.worker(services.write("mail", mail)), services.worker(auth):
        assert services.pgbus(auth, "schema", "check") == "nothing would break\n"
        services.write("auth", AUTH.replace(', Parameter("email", str)', ""))
        answer = services.command(auth, "schema", "check")
    assert answer.returncode == 1
    assert "breaks listener mail-welcome of service mail: event auth.user_registered" in answer.stdout
    assert "`email` is needed, and is missing" in answer.stdout
