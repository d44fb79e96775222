"""A running streaming pool and its operator: `shardd stream ...`, NATS permissions for channels,
and a store with a damaged message."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from shardd.streaming.client.connection import Connection, connect
from shardd.streaming.client.options import StartAt
from tests.support.broker import Broker, make_broker
from tests.support.waiting import PATIENCE, WAIT_S, wait_until_async

SCENARIO_S: Final = 40.0 * PATIENCE

pytestmark = pytest.mark.usefixtures("no_leaks")


@contextmanager
def server_of(text: str) -> Iterator[Broker]:
    """A server with two streaming workers."""
    broker = make_broker("shardd-2")
    broker.start_text(text)
    try:
        yield broker
    finally:
        broker.stop()


def run(scenario: Callable[[], Awaitable[None]]) -> None:
    async def watched() -> None:
        async with asyncio.timeout(SCENARIO_S):
            await scenario()

    asyncio.run(watched())


async def client_of(url: str, name: str = "me", **nats_options: Any) -> Connection:
    return await connect(
        "test-cluster", name, servers=url, nats_options=nats_options, connect_wait_s=WAIT_S
    )


def stream(broker: Broker, *words: str, code: int = 0) -> str:
    """What `shardd stream ...` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "shardd", "stream", *words, "--server", str(broker.pid)],
        capture_output=True,
        text=True,
        timeout=30 * PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- commands ------------------------------------------------------------------------------------


def test_an_operator_lists_purges_and_deletes(tmp_path: Path) -> None:
    names = [f"c{number}" for number in range(6)]  # of both workers

    async def prepare(url: str) -> None:
        async with await connect(
            "test-cluster", "me", servers=url, connect_wait_s=WAIT_S
        ) as client:
            for name in names:
                for _ in range(4):
                    await client.publish(name, b"x")
            await client.subscribe("c1", print, durable_name="d")
            await client.subscribe("c1", print, durable_name="d", queue_group="q")

    with server_of(f'streaming {{ workers: 2, dir: "{tmp_path}" }}') as broker:
        run(lambda: prepare(broker.url))
        assert stream(broker, "channels").split() == names
        assert stream(broker, "purge", "c0", "--before", "3") == (
            "2 messages removed: first 3, last 4\n"
        )
        for name in names[2:]:
            assert stream(broker, "purge", name).startswith("4 messages removed: first 5")
        found = json.loads(stream(broker, "durables", "c1", "--json"))
        assert [(each["durable"], each["queue"], each["is_offline"]) for each in found] == [
            ("d", "", True),
            ("d", "q", True),
        ]
        assert "durable: d, queue: q" in stream(broker, "durables", "c1")
        assert stream(broker, "delete-durable", "c1", "d", "--client", "me") == "deleted\n"
        assert stream(broker, "delete-durable", "c1", "d", "--queue", "q") == "deleted\n"
        assert stream(broker, "durables", "c1") == ""
        assert "no such durable" in stream(
            broker, "delete-durable", "c1", "d", "--client", "me", code=1
        )
        assert "with --client or with --queue" in stream(
            broker, "delete-durable", "c1", "d", code=1
        )
        assert stream(broker, "delete", "c1") == "deleted with 4 messages\n"
        assert "there is no channel 'c1'" in stream(broker, "delete", "c1", code=1)
        assert stream(broker, "channels").split() == ["c0", *names[2:]]


# --- permissions ---------------------------------------------------------------------------------

USERS: Final = """
authorization {
  default_permissions {
    publish: ["_STAN.discover.>", "_STAN.close.>", "_STAN.subclose.>", "_STAN.unsub.>", "_INBOX.>",
              "_STAN.sub.test-cluster", "_STAN.*.test-cluster.open.>"]
    subscribe: ["_INBOX.>", "_STAN.acks.>"]
  }
  users: [ {user: guest, password: pw}, {user: root, password: pw, permissions: {publish: ">"}} ]
}
"""


@pytest.mark.parametrize("is_on", [True, False])
def test_permissions_hold_for_channels(tmp_path: Path, *, is_on: bool) -> None:
    text = f"{USERS} streaming {{ workers: 2, channel_permissions: {str(is_on).lower()} }}"
    refused: list[str] = []

    async def be_told(error: Exception) -> None:
        refused.append(str(error))

    async def assert_refused(attempt: Awaitable[object], subject: str) -> None:
        """NATS lets it not through, and the client waits in vain for an answer."""
        refused.clear()
        waiting = asyncio.ensure_future(attempt)
        await wait_until_async(
            lambda: any(subject in each.lower() for each in refused), f"the refusal of {subject}"
        )
        assert not waiting.done()
        waiting.cancel()
        await asyncio.wait((waiting,))

    async def scenario(url: str) -> None:
        async with (
            await client_of(url, "root", user="root", password="pw") as root,
            await client_of(url, "guest", user="guest", password="pw", error_cb=be_told) as guest,
        ):
            for name in ("open.a", "closed.a"):
                await root.publish(name, b"secret")
                await root.subscribe(name, lambda _: None)
            got = []
            start = StartAt.all_available()
            await guest.publish("open.a", b"hello")
            async with await guest.subscribe("open.a", start=start) as subscription:
                async for message in subscription:
                    got.append(message.data)
                    if len(got) == 2:
                        break
            assert got == [b"secret", b"hello"]
            await assert_refused(guest.publish("closed.a", b"x"), ".closed.a")
            subscribing = guest.subscribe("closed.a", lambda _: None, start=start)
            if is_on:
                await assert_refused(subscribing, "_stan.sub.test-cluster.closed.a")
            else:
                await subscribing

    with server_of(text) as broker:
        run(lambda: scenario(broker.url))


# --- damage --------------------------------------------------------------------------------------


def test_a_damaged_message_does_not_stop_what_is_behind_it(tmp_path: Path) -> None:
    got: list[int] = []

    async def publish(url: str) -> None:
        async with await connect(
            "test-cluster", "me", servers=url, connect_wait_s=WAIT_S
        ) as client:
            for number in range(20):
                await client.publish("foo", b"number %d" % number)

    async def read(url: str) -> None:
        async with await connect(
            "test-cluster", "me", servers=url, connect_wait_s=WAIT_S
        ) as client:
            start = StartAt.all_available()
            async with await client.subscribe("foo", start=start) as subscription:
                async for message in subscription:
                    got.append(message.sequence)
                    if message.sequence == 20:
                        break

    text = f'streaming {{ workers: 2, dir: "{tmp_path}" }}'
    with server_of(text) as broker:
        run(lambda: publish(broker.url))
    (path,) = tmp_path.glob("p*/foo/*.log")
    path.write_bytes(path.read_bytes().replace(b"number 7", b"number 8"))
    with server_of(text) as broker:
        run(lambda: read(broker.url))
        assert broker.log_text().count("message 8 of the channel is lost and passed over") == 1
        assert "replacing it" not in broker.log_text()
    assert got == [*range(1, 8), *range(9, 21)]
