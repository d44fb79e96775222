"""A client of NATS Streaming on its bare protocol, and the original server, for what tests compare.

It knows just enough: connect, publish, subscribe, acknowledge, close. Everything that it received
is kept as it came.
"""

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.support.waiting import WAIT_S

VERSION: Final = "v0.25.6"
_BUILD: Final = Path(__file__).resolve().parents[2] / "build" / "clients" / "original"
_MAKE_S: Final = 500.0

FIRST: Final = 4  # start position


@cache
def original_server() -> Path:
    """The original server, built once below `build/`; the test is skipped where it cannot be."""
    path = _BUILD / "nats-streaming-server"
    if path.exists():
        return path
    if shutil.which("go") is None:
        pytest.skip("the original server is written in Go, which is not installed")
    _BUILD.mkdir(parents=True, exist_ok=True)
    command = ["go", "install", f"github.com/nats-io/nats-streaming-server@{VERSION}"]
    try:
        subprocess.run(
            command,
            env={**os.environ, "GOBIN": str(_BUILD)},
            capture_output=True,
            check=True,
            text=True,
            timeout=_MAKE_S,
        )
    except subprocess.SubprocessError as error:
        pytest.skip(f"the original server cannot be built: {getattr(error, 'stderr', '') or error}")
    return path


class OriginalServer:
    """The original server with a FILE store, as a context manager."""

    def __init__(self, directory: Path, *flags: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
        self._command = [str(original_server()), "-a", "127.0.0.1", "-p", str(self.port)]
        self._command += ["-st", "FILE", "--dir", str(directory), *flags]
        self.process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL
        )
        assert self.process.stderr is not None
        lines = []
        for line in self.process.stderr:
            lines.append(line)
            if "Streaming Server is ready" in line:
                return self
        self.process.wait()
        raise AssertionError("".join(lines))

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.terminate()
        self.process.communicate(timeout=WAIT_S)


def varint(value: int) -> bytes:
    """A number as protobuf has it."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def protobuf(fields: Mapping[int, int | str | bytes]) -> bytes:
    """A message; what is empty is left out."""
    out = b""
    for key, value in sorted(fields.items()):
        if isinstance(value, int):
            out += varint(key << 3) + varint(value) if value else b""
        elif value:
            data = value.encode() if isinstance(value, str) else value
            out += varint(key << 3 | 2) + varint(len(data)) + data
    return out


class StanWire:
    """One connection of a streaming client."""

    def __init__(self, connection: Client, client_id: str, cluster: str) -> None:
        self._connection = connection
        self._id = client_id
        self._cluster = cluster
        self._heartbeat = connection.new_inbox()
        self.connection_id = client_id.encode().ljust(22, b"_")

    @staticmethod
    async def connect(port: int, client_id: str, cluster: str = "test-cluster") -> "StanWire":
        """Connects and registers."""
        connection = await nats.connect(f"nats://127.0.0.1:{port}", allow_reconnect=False)
        client = StanWire(connection, client_id, cluster)

        async def answer(message: Msg) -> None:
            await message.respond(b"")

        await connection.subscribe(client._heartbeat, cb=answer)
        request = {1: client_id, 2: client._heartbeat, 3: 1, 4: client.connection_id, 5: 5, 6: 88}
        await client._ask(f"_STAN.discover.{cluster}", request)
        return client

    async def _ask(self, subject: str, request: Mapping[int, Any]) -> bytes:
        answer = await self._connection.request(subject, protobuf(request), timeout=WAIT_S)
        assert b"stan: " not in answer.data, answer.data
        return answer.data

    async def publish(self, channel: str, data: bytes, reply: str = "") -> None:
        """One message; returns when it is acknowledged."""
        fields = {1: self._id, 2: "guid", 3: channel, 4: reply, 5: data, 6: self.connection_id}
        await self._ask(f"_STAN.pub.{self._cluster}.{channel}", fields)

    async def subscribe(
        self, channel: str, *, in_flight: int = 100, queue: str = "", durable: str = ""
    ) -> "StanSubscription":
        """From the first message on, acknowledged by hand."""
        inbox = self._connection.new_inbox()
        subscription = StanSubscription(self._connection, channel, inbox)
        await self._connection.subscribe(inbox, cb=subscription.take)
        request = {1: self._id, 2: channel, 3: queue, 4: inbox, 5: in_flight, 6: 30, 7: durable}
        request[10] = FIRST
        answer = await self._ask(f"_STAN.sub.{self._cluster}", request)
        assert answer[:1] == b"\x12"
        subscription.ack_inbox = answer[2 : 2 + answer[1]].decode()
        return subscription

    async def end_subscription(self, subscription: "StanSubscription") -> None:
        """Closes it; a durable one stays."""
        request = {1: self._id, 2: subscription.channel, 3: subscription.ack_inbox}
        await self._ask(f"_STAN.subclose.{self._cluster}", request)

    async def leave(self) -> None:
        """Ends the connection to NATS, and says nothing to the streaming server."""
        await self._connection.flush()
        await self._connection.close()


class StanSubscription:
    """What was delivered."""

    def __init__(self, connection: Client, channel: str, inbox: str) -> None:
        self._connection = connection
        self.channel = channel
        self.inbox = inbox
        self.ack_inbox = ""
        self.messages: list[bytes] = []
        self._arrived = asyncio.Event()

    async def take(self, message: Msg) -> None:
        """One delivery."""
        self.messages.append(message.data)
        self._arrived.set()

    async def wait_for(self, count: int) -> None:
        """Returns when so many have been delivered."""
        async with asyncio.timeout(WAIT_S):
            while len(self.messages) < count:
                self._arrived.clear()
                await self._arrived.wait()

    async def ack(self, sequence: int) -> None:
        """Acknowledges one message."""
        await self._connection.publish(self.ack_inbox, protobuf({1: self.channel, 2: sequence}))
