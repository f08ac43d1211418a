"""`pgbus shell` on a terminal, with IPython and without, and in a pipe: S18."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import AsyncIterator, Awaitable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from tests.examples.documents import shown
from tests.support import ROOT, eventually
from tests.support.programs import PROGRAM, program_environ
from tests.support.services import Services
from tests.support.terminal import Terminal, terminal

SERVICE = """
import pgbus
from pgbus import Api, Event


class AuthApi(Api):
    user_registered = Event(parameters=("username", "email"))

    class Meta:
        name = "auth"

    def check_password(self, username: str, password: str) -> bool:
        return (username, password) == ("admin", "secret")


bus = pgbus.create()
bus.client.register_api(AuthApi())


def handle(event, username, email):
    print(f"heard of {username} at {email}")


bus.auth.user_registered.listen(handle, listener_name="hear")
"""

PROMPT = r"^(>>>|In \[\d+\]:)\Z"


@pytest.fixture
def service(services: Services) -> Path:
    return services.write("auth", SERVICE)


@pytest.fixture
def environ(services: Services, tmp_path: Path) -> dict[str, str]:
    return {**services.environ, "HOME": str(tmp_path), "IPYTHONDIR": str(tmp_path / "ipython")}


@pytest.fixture(params=["IPython", "plain"])
def open_shell(
    request: pytest.FixtureRequest, service: Path, environ: dict[str, str], tmp_path: Path
) -> AbstractAsyncContextManager[Terminal]:
    """The shell of the service, either of the two."""
    if request.param == "plain":
        path = f"{without_ipython(tmp_path)}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        environ = {**environ, "PYTHONPATH": path}
    return terminal(PROGRAM, "shell", cwd=service, environ=environ)


def without_ipython(tmp_path: Path) -> Path:
    directory = tmp_path / "hidden"
    directory.mkdir()
    (directory / "IPython.py").write_text("raise ImportError('it is not installed')")
    return directory


@pytest.fixture
async def shell(open_shell: AbstractAsyncContextManager[Terminal]) -> AsyncIterator[Terminal]:
    async with open_shell as opened:
        await opened.shows(r"registered APIs: auth")
        await opened.shows(PROMPT)
        yield opened
        await opened.shows(PROMPT)
        opened.type("\x04")
        assert await opened.ends() == 0


async def test_tab_completes_apis_and_then_events_and_procedures(shell: Terminal) -> None:
    """S18"""
    shell.type("bus.au\t")
    await shell.shows(r"bus\.auth$")
    shell.type(".ch\t")
    await shell.shows(r"bus\.auth\.check_password$")
    shell.type("(username='admin', password='secret')\r")
    await shell.shows(r"^NoWorkerAvailable: auth\.check_password")
    assert "Traceback" not in shell.text


async def test_tab_shows_what_there_is_of_an_api(shell: Terminal) -> None:
    tab = "\t" if "In [" in shell.text else "\t\t"
    shell.type(f"bus.auth.{tab}")
    await shell.shows(r"check_password\s+(bus\.auth)?\.user_registered")
    assert "fire" not in shell.text
    shell.type(f"user_registered.{tab}")
    await shell.shows(r"\.listen_async\b")
    assert ".fire " in shell.text
    shell.type("\x15")  # an empty line again


async def test_tab_completes_what_other_services_have(
    services: Services, environ: dict[str, str], service: Path
) -> None:
    async with services.worker(service):
        pass
    another = services.write("another", "import pgbus\nbus = pgbus.create()\n")
    async with terminal(PROGRAM, "shell", cwd=another, environ=environ) as shell:
        await shell.shows(r"registered APIs: none; APIs of other services: auth")
        await shell.shows(PROMPT)
        shell.type("bus.au\t")
        await shell.shows(r"bus\.auth$")
        shell.type(".us\t")
        await shell.shows(r"bus\.auth\.user_registered$")
        shell.type(".fire(username='eve', email='-')\r")
        await shell.shows("^UnknownApi: no API named 'auth' is registered here")


async def test_an_error_from_deeper_down_has_its_traceback(shell: Terminal) -> None:
    shell.type("ask = lambda: bus.auth.check_password(username='eve', password='x')\r")
    shell.type("ask()\r")
    await shell.shows("NoWorkerAvailable")
    assert "Traceback" in shell.text


async def test_fire_and_call_from_the_prompt(shell: Terminal, services: Services, service: Path) -> None:
    """S18, as the reference shows it"""
    page = shown(ROOT / "docs" / "reference" / "cli.md", ">>> bus.auth.check_password(")
    async with services.worker(service) as worker:
        for number, (typed, answer) in enumerate(zip(page[::2], page[1::2], strict=True), start=1):
            shell.type(typed.removeprefix("    >>> ") + "\r")
            begin, left_out, _ = answer.strip().partition("...")
            await shell.shows(rf"^(Out\[{number}\]: )?{re.escape(begin)}{'' if left_out else '$'}")
        await worker.says("heard of eve at eve@example.com")


async def test_an_error_is_shown_and_the_prompt_goes_on(shell: Terminal) -> None:
    shell.type("bus.store.page_viewed.fire(url='/')\r")
    await shell.shows(r"UnknownApi: .*'store'")
    shell.type("await bus.auth.user_registered.fire_async(user='eve')\r")
    await shell.shows("InvalidEventArguments")
    shell.type("OnError.SHUTDOWN.value * 2\r")
    await shell.shows("'shutdownshutdown'")


async def test_ctrl_c_ends_a_call_that_takes_long_and_not_the_prompt(shell: Terminal, services: Services) -> None:
    def count(state: str) -> Awaitable[int]:
        return services.connection.fetchval("SELECT count(*) FROM pgbus.rpc_calls WHERE state = $1", state)

    shell.type("bus.auth.check_password.call(username='a', password='b', bus_options={'wait': True, 'timeout': 600})\r")
    await eventually(lambda: count("waiting"))
    shell.type("\x03")
    await shell.shows("KeyboardInterrupt")
    await eventually(lambda: count("cancelled"))
    shell.type("6 * 7\r")
    await shell.shows(r"^(Out\[2\]: )?42$")


def run_piped(text: str, *, cwd: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "shell"],
        cwd=cwd,
        env=program_environ(environ),
        input=text,
        capture_output=True,
        text=True,
        timeout=180,
    )


async def test_python_from_a_pipe_is_run(services: Services, service: Path, environ: dict[str, str]) -> None:
    script = """
from __future__ import annotations

print(bus.auth.check_password(username="admin", password="secret"))
print(await bus.auth.check_password.call_async(username="admin", password="wrong"))

def fire(name: NotImported) -> EventMessage:
    return bus.auth.user_registered.fire(username=name, email="-")

print([fire(name).event_name for name in "ab"])
"""
    async with services.worker(service):
        done = run_piped(script, cwd=service, environ=environ)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.splitlines() == ["True", "False", "['user_registered', 'user_registered']"]


@pytest.mark.parametrize(
    ("script", "code", "said"),
    [
        ("print(1)\n\nbus.auth.nothing.fire()\n", 1, r'  File "<stdin>", line 3, in <module>'),
        ("print(1)\nawait bus.auth.nothing.fire_async()\n", 1, r'  File "<stdin>", line 2, in <module>'),
        ("x =\n", 1, "SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(7)\n", 7, ""),
        ("", 0, ""),
    ],
)
def test_the_exit_code_of_a_script_is_that_of_python(
    service: Path, environ: dict[str, str], script: str, code: int, said: str
) -> None:
    done = run_piped(script, cwd=service, environ=environ)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "pgbus/cli" not in done.stderr


def test_a_shell_without_a_bus_module_says_so(services: Services, environ: dict[str, str]) -> None:
    directory = services.directory / "nothing"
    directory.mkdir()
    done = run_piped("", cwd=directory, environ=environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pgbus: there is no module 'bus' in ")
