"""S13: two ways to configure a bus, as the source of truth and for metrics; the reference on configuration has both."""

from __future__ import annotations

import json
import signal

from tests.support import eventually
from tests.support.programs import PROGRAM
from tests.support.services import Services
from tests.support.waiting import PATIENCE

EVENT_SOURCING = """
    service_name: {service}
    process_name: "{service}-${{NUMBER}}"
    lease: 3600
    apis:
      default:
        validate: {{outgoing: true, incoming: false}}
"""
ACCOUNTS = """
    import pgbus

    class AccountsApi(pgbus.Api):
        deposited = pgbus.Event(parameters=("account", pgbus.Parameter("amount", int)))

        class Meta:
            name = "accounts"

    bus = pgbus.create()
    bus.client.register_api(AccountsApi())
"""
DEPOSIT = """
    from bus import bus

    for amount in range({start}, {end}):
        for account in ("ann", "bob", "cid"):
            bus.accounts.deposited.fire(account=account, amount=amount, bus_options={{"key": account}})
"""
LEDGER = """
    import os
    import signal
    from pathlib import Path
    import psycopg
    import pgbus

    bus = pgbus.create()

    def handle(event, account, amount):
        with psycopg.connect(os.environ["PGBUS_DSN"]) as connection:
            connection.execute(
                "INSERT INTO ledger (worker, account, amount) VALUES (%s, %s, %s)",
                (bus.config.process_name, account, amount),
            )
        if (account, amount) == ("bob", 13) and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    bus.accounts.deposited.listen(
        handle, listener_name="ledger", bus_options={"ordered": True, "batch_size": 1, "since": "0"}
    )
"""


async def test_events_that_are_the_truth_are_checked_and_kept_in_order_across_crashes(services: Services) -> None:
    """Named workers, one event at a time: what a killed one had is taken up at once, however long the lease."""
    await services.connection.execute(
        "CREATE TABLE ledger (number bigserial, worker text, account text, amount integer)"
    )
    accounts, ledger = services.write("accounts", ACCOUNTS), services.write("ledger", LEDGER)
    for directory in (accounts, ledger):
        (directory / "pgbus.yaml").write_text(EVENT_SOURCING.format(service=directory.name))
    services.environ["NUMBER"] = "0"

    services.run_code(accounts, DEPOSIT.format(start=0, end=10))  # before anybody listens
    wrong = "from bus import bus\nbus.accounts.deposited.fire(account='ann', amount='much')"
    assert "InvalidEventArguments: amount: " in services.execute(accounts, wrong).stderr

    async with (
        services.process(PROGRAM, "run", cwd=ledger, NUMBER="1") as one,
        services.process(PROGRAM, "run", cwd=ledger, NUMBER="2") as other,
    ):
        services.run_code(accounts, DEPOSIT.format(start=10, end=20))
        workers = {"1": one, "2": other}
        await eventually(lambda: any(each.child.returncode is not None for each in workers.values()), PATIENCE)
        [killed] = [number for number, each in workers.items() if each.child.returncode is not None]
        async with services.worker(ledger, NUMBER=killed):
            services.run_code(accounts, DEPOSIT.format(start=20, end=25))
            await services.settled()
        del workers[killed]
        for alive in workers.values():
            alive.child.send_signal(signal.SIGTERM)
            assert await alive.ends() == 0

    rows = await services.connection.fetch("SELECT * FROM ledger ORDER BY number")
    amounts: dict[str, list[int]] = {"ann": [], "bob": [], "cid": []}
    for row in rows:
        amounts[row["account"]].append(row["amount"])
    for of_account in amounts.values():
        assert of_account == sorted(of_account)
        assert set(of_account) == set(range(25))
        # Of each account, the killed worker may have had one event that was written and not yet settled.
        assert len(of_account) <= 26
    assert amounts["bob"].count(13) == 2
    assert {row["worker"] for row in rows} == {"ledger-1", "ledger-2"}
    assert await services.connection.fetchval("SELECT count(*) FROM pgbus.events") == 75


async def test_every_process_reads_the_named_file_and_fills_placeholders_itself(
    services: Services,
) -> None:
    accounts = services.write("accounts", ACCOUNTS)
    (accounts / "pgbus.toml").write_text("service_name = 'not this one'\n")
    (services.directory / "production.yaml").write_text("service_name: accounts-${REGION}\nlease: 77\n")
    options = ("--config", "../production.yaml", "--processes", "2", "--process-name", "{friendly}/{pid}")
    async with services.process(PROGRAM, "run", *options, cwd=accounts, REGION="north") as workers:
        query = "SELECT name, service, pid FROM pgbus.workers"
        await eventually(lambda: _count(services, query, 2), PATIENCE)
        rows = await services.connection.fetch(query)
        workers.child.send_signal(signal.SIGTERM)
        assert await workers.ends() == 0
    assert {row["service"] for row in rows} == {"accounts-north"}
    words = [row["name"].split("/") for row in rows]
    assert [int(pid) for _, pid in words] == [row["pid"] for row in rows]
    assert words[0][0] != words[1][0]


async def _count(services: Services, query: str, count: int) -> bool:
    return len(await services.connection.fetch(query)) == count


METRICS = """
    service_name: {service}
    retention: 604800
    partition_period: 86400
    apis:
      default: {{validate: false, cast_values: false}}
"""
SHOP = """
    import pgbus

    class ShopApi(pgbus.Api):
        page_viewed = pgbus.Event(parameters=("url", pgbus.Parameter("milliseconds", int)))
        page_left = pgbus.Event(parameters=("url",))

        class Meta:
            name = "shop"

    bus = pgbus.create()
    bus.client.register_api(ShopApi())
"""
VIEW = """
    from bus import bus

    for number in range(250):
        bus.shop.page_viewed.fire(url=f"/{number}", milliseconds="about 5")
    bus.shop.page_left.fire(url="/")
"""
CHARTS = """
    import sys
    import pgbus

    bus = pgbus.create()

    def count(event, url: str, milliseconds: int):
        sys.stdout.write(f"viewed {url} {milliseconds!r}\\n")
        sys.stdout.flush()

    def leave(event, url):
        sys.stdout.write(f"left {url}\\n")
        sys.stdout.flush()

    bus.shop.page_viewed.listen(count, listener_name="views", bus_options={"batch_size": 100, "concurrency": 10})
    bus.shop.page_left.listen(leave, listener_name="leaves", bus_options={"batch_size": 100})
"""


async def test_metrics_are_taken_as_they_come_in_large_batches_and_kept_for_a_while(services: Services) -> None:
    """Nothing is checked or cast; each listener is owed its own events alone; and the history is bounded."""
    shop, charts = services.write("shop", SHOP), services.write("charts", CHARTS)
    for directory in (shop, charts):
        (directory / "pgbus.yaml").write_text(METRICS.format(service=directory.name))

    async with services.worker(charts) as worker:
        services.run_code(shop, VIEW)
        await worker.says("^viewed ", times=250)
        await worker.says("^left /$")
        await services.settled()
        assert sorted(worker.out) == sorted(["left /", *(f"viewed /{number} 'about 5'" for number in range(250))])

    options = await services.connection.fetch("SELECT listener_name, options ->> 'batch_size' FROM pgbus.listeners")
    assert {tuple(row) for row in options} == {("charts-views", "100"), ("charts-leaves", "100")}
    assert not await services.dead_errors()
    settings = [json.loads(line) for line in services.pgbus(charts, "config", "--json").splitlines()]
    shown = {setting["name"]: (setting["value"], setting["source"]) for setting in settings}
    assert shown["retention"] == (604800.0, "pgbus.yaml")
    assert shown["partition_period"] == (86400.0, "pgbus.yaml")
    assert shown["apis.default.validate.incoming"] == (False, "pgbus.yaml")
