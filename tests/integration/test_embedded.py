"""The embedded server against everything that may happen to it, and to the process that owns it."""

import asyncio
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from pgbus.embedded import EmbeddedPostgres, find_binaries
from pgbus.embedded.datadir import lock_datadir
from pgbus.errors import EmbeddedPostgresError
from tests.conftest import Connect
from tests.support import eventually
from tests.support.waiting import widening

linux_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="is about being root, on Linux only"
)


def is_abandoned(datadir: Path) -> bool:
    """Whether no process of a server is left: each of them, clients' backends included, holds the lock."""
    try:
        os.close(lock_datadir(datadir, deadline=time.monotonic()))
    except EmbeddedPostgresError:
        return False
    return True


async def rows(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        count: int = await connection.fetchval("SELECT count(*) FROM kept")
        return count
    finally:
        await connection.close()


async def keep_a_row(dsn: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE TABLE kept AS SELECT 1 AS id")
    finally:
        await connection.close()


class Owner:
    """Another Python process that starts a server and then reads its standard input."""

    def __init__(self, datadir: Path, body: str = "", *, temporary: bool = False) -> None:
        place = None if temporary else str(datadir)
        program = f"""
            import os, sys, threading
            from pgbus.embedded import EmbeddedPostgres
            server = EmbeddedPostgres({place!r}, settings={{"fsync": "off"}})
            try:
                server.start()
            except Exception as error:
                sys.exit(str(error))
            {body}
            sys.stdout.write(f"{{server.datadir}}\\n{{server.dsn()}}\\n")
            sys.stdout.flush()
            sys.stdin.read()
        """
        self.process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(program)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def readline(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def wait_for_death(self) -> str:
        """What the owner said on standard error, once it is dead."""
        return self.process.communicate(timeout=60)[1]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def start_owner(tmp_path: Path) -> Iterator[Callable[..., Owner]]:
    owners: list[Owner] = []

    def start(*args: str, temporary: bool = False) -> Owner:
        owners.append(Owner(tmp_path / "data", *args, temporary=temporary))
        return owners[-1]

    yield start
    for owner in owners:
        owner.close()


async def test_a_database_answers_under_its_dsn(own_server: EmbeddedPostgres, connect: Connect) -> None:
    dsn = own_server.create_database("a b%/ü")
    connection = await connect(dsn)
    assert await connection.fetchval("SELECT current_database()") == "a b%/ü"
    assert await connection.fetchval("SHOW listen_addresses") == ""


async def test_a_database_is_created_from_a_template(own_server: EmbeddedPostgres) -> None:
    await keep_a_row(own_server.create_database("original"))
    assert await rows(own_server.create_database("copy", template="original")) == 1


def test_a_refused_database_says_why(own_server: EmbeddedPostgres) -> None:
    with pytest.raises(EmbeddedPostgresError, match=r"'postgres' was not created: .*already exists"):
        own_server.create_database("postgres")


async def test_data_survives_a_stop_in_a_path_with_spaces(tmp_path: Path) -> None:
    datadir = tmp_path / "my data" / "it's 100%"
    with EmbeddedPostgres(datadir) as server:
        await keep_a_row(server.dsn())
    assert is_abandoned(datadir)
    with EmbeddedPostgres(datadir) as server:
        assert await rows(server.dsn()) == 1


def test_temporary_data_is_gone_after_close() -> None:
    server = EmbeddedPostgres().start()
    datadir, scratch = server.datadir, server.datadir.parent
    server.stop()
    assert server.pid is None
    assert is_abandoned(datadir)
    server.close()
    server.close()
    assert not scratch.exists()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_committed_rows_and_the_dsn_survive_a_restart(own_server: EmbeddedPostgres, mode: str) -> None:
    dsn, pid = own_server.dsn(), own_server.pid
    await keep_a_row(dsn)
    own_server.restart(mode)  # type: ignore[arg-type]  # one of the two that pytest passes
    assert own_server.pid != pid
    assert await rows(dsn) == 1


async def test_committed_rows_survive_a_crash_with_clients(own_server: EmbeddedPostgres, connect: Connect) -> None:
    await keep_a_row(own_server.dsn())
    client = await connect(own_server.dsn())
    own_server.kill()
    own_server.start()
    assert await rows(own_server.dsn()) == 1
    with pytest.raises((asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError)):
        await client.execute("SELECT 1")


BUSY = """
    DO $$ DECLARE until timestamptz := clock_timestamp() + make_interval(secs => {seconds}); BEGIN
        WHILE clock_timestamp() < until LOOP END LOOP;
    END $$
"""


async def begin_busy_statement(connection: asyncpg.Connection, observer: asyncpg.Connection, *, seconds: float) -> int:
    """Occupy a backend, which in a loop does not notice that its postmaster died; returns its pid."""
    pid: int = await connection.fetchval("SELECT pg_backend_pid()")
    running = asyncio.ensure_future(connection.execute(BUSY.format(seconds=seconds)))
    running.add_done_callback(lambda done: done.cancelled() or done.exception())
    active = "SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = $1 AND state = 'active'"

    async def has_begun() -> bool:
        return running.done() or bool(await observer.fetchval(active, pid))

    await eventually(has_begun)
    return pid


async def test_start_waits_for_the_backends_of_a_crashed_server(own_server: EmbeddedPostgres, connect: Connect) -> None:
    for seconds in widening(1.0):
        client, observer = await connect(own_server.dsn()), await connect(own_server.dsn())
        await begin_busy_statement(client, observer, seconds=seconds)
        own_server.kill()
        # On a busy machine the statement may be over by now: then there is nothing to wait for.
        was_held = not is_abandoned(own_server.datadir)
        own_server.start()
        assert own_server.pid is not None
        if was_held:
            break


async def test_start_names_leftover_backends_when_time_is_up(own_server: EmbeddedPostgres, connect: Connect) -> None:
    client, observer = await connect(own_server.dsn()), await connect(own_server.dsn())
    backend = await begin_busy_statement(client, observer, seconds=60.0)
    own_server.kill()
    try:
        with pytest.raises(EmbeddedPostgresError, match="still held by processes of a PostgreSQL that died"):
            own_server.start(timeout=0.1)
    finally:
        os.kill(backend, signal.SIGKILL)
    own_server.start()


def test_a_pidfile_with_the_pid_of_a_stranger_does_not_prevent_a_start(own_server: EmbeddedPostgres) -> None:
    own_server.kill()
    pidfile = own_server.datadir / "postmaster.pid"
    lines = pidfile.read_text().splitlines()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        pidfile.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        own_server.start()
        stranger.kill()


def test_a_second_server_on_the_same_directory_is_refused(own_server: EmbeddedPostgres) -> None:
    with pytest.raises(EmbeddedPostgresError, match=rf"in use by a running PostgreSQL, pid {own_server.pid}\b"):
        EmbeddedPostgres(own_server.datadir).start()


def test_of_two_processes_that_start_at_once_one_is_refused(tmp_path: Path, start_owner: Callable[..., Owner]) -> None:
    answers = [(owner, owner.readline()) for owner in [start_owner(), start_owner()]]
    refused = [owner for owner, answer in answers if not answer]
    assert sorted(answer for _, answer in answers) == ["", str(tmp_path / "data")]
    assert "in use by a running PostgreSQL" in refused[0].wait_for_death()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_no_process_outlives_an_owner_that_was_killed(
    start_owner: Callable[..., Owner], connect: Connect, number: signal.Signals
) -> None:
    owner = start_owner(temporary=True)
    datadir = Path(owner.readline())
    await connect(owner.readline())
    assert not is_abandoned(datadir)
    owner.process.send_signal(number)
    owner.wait_for_death()
    await eventually(lambda: not datadir.parent.exists(), message="temporary files were not removed")


async def test_no_process_outlives_an_owner_that_forgot_to_stop(start_owner: Callable[..., Owner]) -> None:
    owner = start_owner()
    datadir = Path(owner.readline())
    owner.wait_for_death()
    await eventually(lambda: is_abandoned(datadir))
    assert owner.process.returncode == 0
    assert not (datadir / "postmaster.pid").exists(), "it was not a clean shutdown"


async def test_a_forked_child_neither_keeps_nor_stops_the_server(
    start_owner: Callable[..., Owner], connect: Connect
) -> None:
    owner = start_owner(
        "if os.fork() == 0: server.stop(); server.close(); os.write(1, b'closed\\n'); sys.stdin.read(); os._exit(0)"
    )
    lines = {owner.readline() for _ in range(3)}
    datadir = Path(next(line for line in lines if line.endswith("/data")))
    assert "closed" in lines
    await connect(next(line for line in lines if "://" in line))
    owner.process.kill()
    await eventually(lambda: is_abandoned(datadir), message="the child's copy of a pipe kept the server alive")


async def test_a_server_outlives_the_thread_that_started_it(connect: Connect) -> None:
    server = EmbeddedPostgres()
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    try:
        connection = await connect(server.dsn())
        assert await connection.fetchval("SELECT 1") == 1
    finally:
        server.close()


def test_a_wrong_setting_is_reported_with_the_servers_log(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match=r"(?s)did not start.*no_such_setting"):
        EmbeddedPostgres(tmp_path / "data", settings={"no_such_setting": 1}).start()
    with EmbeddedPostgres(tmp_path / "data") as server:
        assert "no_such_setting" in server.log_path.read_text()


def test_a_directory_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").touch()
    with pytest.raises(EmbeddedPostgresError, match=r"was not initialised.*not empty"):
        EmbeddedPostgres(tmp_path).start()
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_an_address_is_asked_for_too_early() -> None:
    with pytest.raises(EmbeddedPostgresError, match="call `start` first"):
        EmbeddedPostgres().dsn()


async def test_settings_reach_the_server(tmp_path: Path, connect: Connect) -> None:
    with EmbeddedPostgres(settings={"max_connections": 7, "application_name": "two words"}) as server:
        connection = await connect(server.dsn())
        assert await connection.fetchval("SHOW max_connections") == "7"


async def test_tcp_asks_for_the_password_that_the_dsn_holds(connect: Connect) -> None:
    with EmbeddedPostgres(listen=True) as server:
        dsn = server.dsn()
        url = urlsplit(dsn)
        assert url.hostname == "127.0.0.1"
        assert await (await connect(dsn)).fetchval("SELECT inet_server_port()") == url.port
        wrong = urlunsplit(url._replace(netloc=f"postgres:guess@127.0.0.1:{url.port}"))
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(wrong)
        server.restart()
        assert server.dsn() == dsn
        await connect(server.create_database("other"))


@linux_root
def test_root_needs_no_user_and_no_public_directory(tmp_path: Path) -> None:
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    users = Path("/etc/passwd").read_bytes()
    with EmbeddedPostgres(private / "data") as server:
        assert server.pid is not None
        assert {path.stat().st_uid for path in (private / "data").iterdir()} == {0}
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert Path("/etc/passwd").read_bytes() == users


@pytest.fixture
def path_without_unshare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in a container that forbids user namespaces; there `unshare` is found, but fails."""
    script = tmp_path / "unshare"
    script.write_text("#!/bin/sh\nexit 1\n")
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")


@linux_root
@pytest.mark.usefixtures("path_without_unshare")
async def test_root_without_user_namespaces_runs_the_server_as_nobody(connect: Connect, tmp_path: Path) -> None:
    # From a private directory, as when the virtual environment lies in root's home.
    private = tmp_path / "private"
    hidden = find_binaries().copied_to(private / "wheel")
    private.chmod(0o700)
    with EmbeddedPostgres(bindir=hidden.directory) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == pwd.getpwnam("nobody").pw_uid
        connection = await connect(server.dsn())
        assert await connection.fetchval("SELECT 1") == 1
        server.kill()
        server.start()
        scratch = server.datadir.parent
    assert not scratch.exists()


AS_NOBODY = """
    import os, pwd, sys
    from pgbus.embedded import EmbeddedPostgres
    nobody = pwd.getpwnam("nobody")
    os.setgroups([])
    os.setgid(nobody.pw_gid)
    os.setuid(nobody.pw_uid)
    home, bindir = sys.argv[1:]
    for _ in range(2):
        with EmbeddedPostgres(home + "/data", bindir=bindir) as server:
            server.create_database(f"number_{server.pid}")
    print(os.stat(server.datadir).st_uid == nobody.pw_uid)
"""


@pytest.fixture
def home_of_nobody() -> Iterator[Path]:
    """Not under pytest's own directory, which is private."""
    home = Path(tempfile.mkdtemp(prefix="nobody-"))
    nobody = pwd.getpwnam("nobody")
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    yield home
    shutil.rmtree(home)


@linux_root
def test_an_ordinary_user_starts_it_twice(home_of_nobody: Path) -> None:
    binaries = find_binaries().copied_to(home_of_nobody / "programs")
    answer = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(AS_NOBODY), str(home_of_nobody), str(binaries.directory)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (answer.stdout, answer.stderr) == ("True\n", "")
