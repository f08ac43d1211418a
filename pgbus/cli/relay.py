"""`pgbus relay`: events to another system, or messages of another system into this bus."""

from __future__ import annotations

import rich_click as click

from pgbus.cli.extras import import_extra
from pgbus.cli.global_options import database_options, load_config
from pgbus.cli.logs import configure_logging
from pgbus.cli.loops import open_runner
from pgbus.cli.options import Seconds, read_pattern


@click.command()
@click.argument("patterns", nargs=-1, type=read_pattern, metavar="[PATTERN]...")
@click.option("--name", required=True, help="Name of the relay; as --to, the name of its listener.")
@click.option(
    "--to",
    metavar="URL",
    envvar="PGBUS_RELAY_TO",
    help="Write events there: kafka://, nats://, amqp://, redis:// or postgresql:// (PGBUS_RELAY_TO).",
)
@click.option(
    "--from",
    "source",
    metavar="URL",
    envvar="PGBUS_RELAY_FROM",
    help="Publish the messages from there: kafka://, nats://, amqp:// or redis:// (PGBUS_RELAY_FROM).",
)
@click.option("--structured", is_flag=True, help="Write CloudEvents in structured mode; default: in binary mode.")
@click.option(
    "--remember",
    type=Seconds(min=1),
    default=604_800,
    show_default=True,
    metavar="SECONDS",
    help="Recognize a message that comes again within this time.",
)
@database_options
def relay(
    *, patterns: tuple[str, ...], name: str, to: str | None, source: str | None, structured: bool, remember: float
) -> None:
    """Write events to another system, or publish its messages as events, until SIGTERM or Ctrl-C.

    With --to, the events of topics or PATTERNs: each is acknowledged there before it is done here. With --from,
    messages become events, each once, and are acknowledged after that.
    """
    if (to is None) == (source is None):
        raise click.UsageError("give either --to or --from")
    if to is not None and not patterns:
        raise click.UsageError("name the topics or patterns whose events to write, such as 'orders.**'")
    if source is not None and (patterns or structured):
        raise click.UsageError("with --from, messages of all topics and both modes are read: give none")
    config = load_config()
    configure_logging(level=config.log_level, format=config.log_format)
    relays = import_extra("pgbus.contrib.relay.running", used_by="a relay", extra="relay-kafka")
    with open_runner("auto") as runner:
        if to is not None:
            runner.run(relays.send(config, to, patterns, name=name, structured=structured))
        else:
            runner.run(relays.receive(config, source, name=name, remember=remember))
