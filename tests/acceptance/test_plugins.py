"""Plugins that are installed beside services, and the two that come along: real distributions, real processes."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.support import eventually
from tests.support.distributions import install
from tests.support.programs import PROGRAM
from tests.support.services import Services
from tests.support.waiting import PATIENCE

AUTH = """
    import pgbus

    class AuthApi(pgbus.Api):
        user_registered = pgbus.Event(parameters=("username",))

        def check_password(self, username, password):
            return password == "secret"

        class Meta:
            name = "auth"

    bus = pgbus.create()
    bus.client.register_api(AuthApi())

    def greet(event, username):
        print(f"welcome {username}", flush=True)

    bus.auth.user_registered.listen(greet, listener_name="greet")
"""
FIRE = "from bus import bus\nprint(bus.auth.user_registered.fire(username='ann').id)"
CALL = "from bus import bus\nprint(bus.auth.check_password(username='ann', password='secret'))"

GREETING = """
    from pgbus import Plugin

    class GreetingPlugin(Plugin):
        priority = 200

        def __init__(self, greeting):
            self.greeting = greeting

        @classmethod
        def from_config(cls, *, config, greeting: str = "Hello world!"):
            return cls(greeting)

        async def after_event_sent(self, *, client, event_message):
            print(f"{self.greeting} I just sent {event_message.event_name}", flush=True)

        async def before_worker_start(self, *, client):
            print(f"{self.greeting} A worker starts", flush=True)

        def exception(self, e):
            print(f"{self.greeting} It ends: {e}", flush=True)
"""


@pytest.fixture
def greeting(services: Services) -> Path:
    """The greeting plugin, installed where all services find it."""
    site = services.directory / "site"
    install(site, "greeting_plugin", GREETING, plugins={"greeting_plugin": "GreetingPlugin"})
    services.environ["PYTHONPATH"] = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    return site


@pytest.mark.usefixtures("greeting")
async def test_an_installed_plugin_greets_only_where_it_is_enabled(services: Services) -> None:
    """S15."""
    auth = services.write("auth", AUTH)
    config = auth / "pgbus.yaml"
    assert "Hello" not in services.run_code(auth, FIRE)

    config.write_text("plugins:\n  greeting_plugin:\n    enabled: false\n")
    assert "Hello" not in services.run_code(auth, FIRE)

    config.write_text("plugins:\n  greeting_plugin:\n    enabled: true\n")
    assert services.run_code(auth, FIRE).startswith("Hello world! I just sent user_registered\n")

    config.write_text('plugins:\n  greeting_plugin:\n    enabled: true\n    greeting: "${WORD}!"\n')
    services.environ["WORD"] = "Good day"
    assert services.run_code(auth, FIRE).startswith("Good day! I just sent user_registered\n")
    async with services.worker(auth) as worker:
        await worker.says(r"^Good day! A worker starts$")


@pytest.mark.usefixtures("greeting")
async def test_an_unknown_plugin_or_a_wrong_option_keeps_a_worker_from_starting(
    services: Services,
) -> None:
    auth = services.write("auth", AUTH)
    other = auth / "other.yaml"
    for text, message in (
        (
            "greeting_plugin: {enabled: true, greeting: 5}",
            "plugins.greeting_plugin.greeting ({}): does not fit: Expect",
        ),
        (
            "greeting_plugin: {enabled: true, greting: Hi}",
            "plugins.greeting_plugin ({}): there is no setting 'greting'",
        ),
        (
            "greeting: {enabled: true}",
            "plugins.greeting ({}): no such plugin is installed; there are greeting_plugin, ",
        ),
    ):
        other.write_text(f"plugins: {{{text}}}\n")
        done = services.command(auth, "run", "--config", "other.yaml")
        assert done.returncode == 2
        assert message.format(other) in done.stderr
        assert done.stderr.count("\n") == 1


@pytest.mark.usefixtures("greeting")
async def test_plugins_are_told_what_a_worker_ends_with(services: Services) -> None:
    source = AUTH + "\n    @bus.client.on_start()\n    def fail():\n        raise RuntimeError('no start today')\n"
    auth = services.write("auth", source)
    (auth / "pgbus.toml").write_text("[plugins.greeting_plugin]\nenabled = true\n")
    done = services.command(auth, "run")
    assert done.returncode != 0
    assert "Hello world! It ends: no start today\n" in done.stdout


@pytest.mark.usefixtures("greeting")
async def test_the_printed_config_schema_has_the_options_of_installed_plugins(services: Services) -> None:
    printed = json.loads(services.pgbus(services.directory, "config", "schema"))
    option = printed["properties"]["plugins"]["properties"]["greeting_plugin"]["properties"]["greeting"]
    assert option["default"] == "Hello world!"


async def test_workers_tell_that_they_start_live_and_stop(services: Services) -> None:
    """N13: a dashboard hears of the workers of a service whose configuration has the state plugin."""
    auth = services.write("auth", AUTH)
    (auth / "pgbus.yaml").write_text(
        """
        service_name: auth
        process_name: "auth-{pid}"
        plugins:
          internal_state: {enabled: true, ping_interval: 0.2}
          internal_metrics: {enabled: true}
        """
    )
    dashboard = services.write("dashboard", STATE_DASHBOARD)
    async with services.worker(dashboard) as screen:
        async with services.worker(auth) as worker:
            pid = worker.child.pid
            [started] = [json.loads(line) for line in await screen.says(r"worker_started")]
            pings = [json.loads(line) for line in await screen.says(r"worker_ping", times=3)]
        [stopped] = [json.loads(line) for line in await screen.says(r"worker_stopped")]

    for state in (started, *pings):
        assert (state["service_name"], state["process_name"], state["pid"]) == ("auth", f"auth-{pid}", pid)
        assert (state["ping_enabled"], state["ping_interval"], state["metrics_enabled"]) == (True, 0.2, True)
        assert (state["api_names"], state["listening_for"]) == (["auth"], ["auth.user_registered"])
        assert state["hostname"] == os.uname().nodename
        assert 1_000 < state["max_memory_use"] < 10_000_000
    # Those that come together on a busy machine are shown by several threads, in any order.
    pinged = sorted(ping["timestamp"] for ping in pings)
    assert started["timestamp"] < pinged[0] < pinged[1] < pinged[-1] < stopped["timestamp"]
    assert set(stopped) == {"event", "service_name", "process_name", "timestamp"}


async def test_a_worker_without_pings_reports_its_start_and_its_end_by_sigterm(services: Services) -> None:
    """N13: Lightbus failed to stop with pings disabled."""
    auth = services.write("auth", AUTH)
    (auth / "pgbus.toml").write_text("[plugins.internal_state]\nenabled = true\nping_enabled = false\n")
    async with services.process(PROGRAM, "run", cwd=auth) as worker:
        await eventually(lambda: _topics(services, "worker_started"), PATIENCE)
        worker.child.send_signal(signal.SIGTERM)
        assert await worker.ends() == 0
    assert await _topics(services, "worker_stopped") == ["internal.state.worker_stopped"]


async def _topics(services: Services, name: str) -> list[str]:
    query = "SELECT topic FROM pgbus.events WHERE topic = $1 UNION ALL SELECT topic FROM pgbus.outbox WHERE topic = $1"
    return [row["topic"] for row in await services.connection.fetch(query, f"internal.state.{name}")]


async def test_metrics_report_every_step_by_event_id_and_not_their_own_events(services: Services) -> None:
    """N14."""
    auth = services.write("auth", AUTH)
    (auth / "pgbus.yaml").write_text("service_name: auth\nplugins: {internal_metrics: {enabled: true}}\n")
    dashboard = services.write("dashboard", METRICS_DASHBOARD)
    (dashboard / "pgbus.yaml").write_text("plugins: {internal_metrics: {enabled: true}}\n")
    async with services.worker(dashboard) as screen, services.worker(auth) as worker:
        event_id = services.run_code(auth, FIRE).strip()
        assert services.run_code(auth, CALL) == "True\n"
        await worker.says("welcome ann")
        told = [json.loads(line) for line in await screen.says(r"^\{", times=7)]
        await services.settled()
        assert len(screen.out) == 7

    by_name = {metric.pop("event"): metric for metric in told}
    events = {name: by_name[name] for name in ("event_fired", "event_received", "event_processed")}
    calls = {name: one for name, one in by_name.items() if name.startswith("rpc")}
    for metric in events.values():
        assert metric["event_id"] == event_id
        assert (metric["api_name"], metric["event_name"]) == ("auth", "user_registered")
        assert (metric["kwargs"], metric["service_name"]) == ({"username": "ann"}, "auth")
    assert set(calls) == {"rpc_call_sent", "rpc_call_received", "rpc_response_sent", "rpc_response_received"}
    assert len({metric["id"] for metric in calls.values()}) == 1
    for metric in calls.values():
        assert (metric["api_name"], metric["procedure_name"]) == ("auth", "check_password")
    assert calls["rpc_call_sent"]["kwargs"] == {"username": "ann", "password": "secret"}
    assert "kwargs" not in calls["rpc_call_received"]
    assert calls["rpc_response_sent"]["result"] is True
    assert calls["rpc_call_sent"]["timestamp"] <= calls["rpc_response_received"]["timestamp"]


STATE_DASHBOARD = """
    import json
    import sys
    import pgbus

    bus = pgbus.create()

    def show(event, **state):
        sys.stdout.write(json.dumps({"event": event.event_name, **state}) + "\\n")
        sys.stdout.flush()

    bus.client.listen_for_event("internal.state", "*", show, "dashboard")
"""
METRICS_DASHBOARD = STATE_DASHBOARD.replace("internal.state", "internal.metrics")
