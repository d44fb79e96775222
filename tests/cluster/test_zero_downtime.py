"""Hosts join, leave, and are restarted one after the other, while messages go on.

Clients of the hosts that stay hear every message of each other, in order and once. Those of a host
that leaves go to another one that they were told of.
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from tests.support.broker import NATS_SERVER
from tests.support.machines import Machines, kill_router, machines_of, wait_replaced
from tests.support.waiting import PATIENCE, wait_until, wait_until_async

Form = Callable[..., Machines]

LAME_DUCK = 'lame_duck_grace_period: "500ms", lame_duck_duration: "30s"'
# Far more than what a router costs its host: a host that waits for one has no end of it.
GAP_S_MAX = 5.0 * PATIENCE
_PAUSE_S = 0.005
_BATCH = 5


@pytest.fixture
def form(no_leaks: None) -> Iterator[Form]:
    """``form(*kinds)``: a settled cluster; every server is told of the first two."""
    with ExitStack() as stack:

        def start(*kinds: str, more: str = "") -> Machines:
            return stack.enter_context(machines_of(kinds, routes=[0, 1], more=more))

        yield start


class Stream:
    """Numbers that one client publishes all the time, and what some others hear of them."""

    def __init__(self, subject: str, publisher: Client) -> None:
        self.subject = subject
        self.sent = 0
        self.gap_s = 0.0  # the longest time that a subscriber heard nothing
        self._publisher = publisher
        self._heard: list[list[int]] = []
        self._task: asyncio.Task[None] | None = None
        self._is_over = False

    async def subscribe(self, client: Client) -> None:
        """One more that listens."""
        heard: list[int] = []
        last = 0.0

        async def take(message: Msg) -> None:
            nonlocal last
            heard.append(int(message.data))
            now = time.monotonic()
            self.gap_s = max(self.gap_s, now - last if last else 0.0)
            last = now

        await client.subscribe(self.subject, cb=take)
        await client.flush()
        self._heard.append(heard)

    async def start(self) -> None:
        """Publish on and on, once everybody hears it."""
        while not all(self._heard):
            await self._publisher.publish(self.subject, b"-1")
            await self._publisher.flush()
            await asyncio.sleep(_PAUSE_S)
        self._task = asyncio.create_task(self._publish())

    async def _publish(self) -> None:
        while not self._is_over:
            for _ in range(_BATCH):
                await self._publisher.publish(self.subject, b"%d" % self.sent)
                self.sent += 1
            await self._publisher.flush()
            await asyncio.sleep(_PAUSE_S)

    async def finish(self) -> None:
        """No more; everybody has heard all of it."""
        assert self._task is not None
        self._is_over = True  # the client library swallows a cancellation now and then
        await self._task
        await wait_until_async(
            lambda: all(heard[-1] == self.sent - 1 for heard in self._heard), "the last number"
        )
        for heard in self._heard:
            numbers = [number for number in heard if number >= 0]
            assert numbers == list(range(self.sent)), first_fault(numbers)


def first_fault(numbers: Sequence[int]) -> str:
    """Where a sequence is not one."""
    for position, number in enumerate(numbers):
        if number != position:
            return f"{number} instead of {position}"
    return f"{len(numbers)} in order"


async def connect(machines: Machines, index: int, **options: Any) -> Client:
    """A client that only knows this host."""
    return await nats.connect(machines[index].url, **options)


async def streams_between(
    machines: Machines, hosts: Sequence[int]
) -> tuple[list[Stream], list[Client]]:
    """A stream of each host that all of them listen to; none of the clients may reconnect."""
    clients = [
        await connect(machines, index, allow_reconnect=False) for index in hosts for _ in range(2)
    ]
    streams = []
    for number, publisher in enumerate(clients[::2]):
        stream = Stream(f"stream.{number}", publisher)
        for subscriber in clients[1::2]:
            await stream.subscribe(subscriber)
        streams.append(stream)
    for stream in streams:
        await stream.start()
    return streams, clients


async def end(streams: list[Stream], clients: list[Client]) -> None:
    for stream in streams:
        await stream.finish()
    for client in clients:
        assert client.is_connected
        await client.close()


class Mover:
    """A client of a host that leaves: it answers requests, now here, now there."""

    def __init__(self, client: Client) -> None:
        self.client = client

    @classmethod
    async def of(cls, machines: Machines, index: int) -> "Mover":
        client = await connect(machines, index, max_reconnect_attempts=-1, reconnect_time_wait=0.05)

        async def answer(message: Msg) -> None:
            await message.respond(message.data)

        await client.subscribe("mover", cb=answer)
        await client.flush()
        return cls(client)

    @property
    def host(self) -> str | None:
        """The address of the host that it is connected to."""
        url = self.client.connected_url if self.client.is_connected else None
        return url.hostname if url is not None else None


async def restart(machines: Machines, index: int) -> None:
    """Lame duck mode, the end, a new start; everything that does not concern it goes on."""
    others = [other for other in range(len(machines.brokers)) if other != index]
    streams, clients = await streams_between(machines, others)
    movers = [await Mover.of(machines, index) for _ in range(3)]
    leaving = machines[index]
    os.kill(leaving.pid, signal.SIGUSR2)
    await asyncio.to_thread(wait_until, lambda: not leaving.is_alive(), "the end", 20.0 * PATIENCE)
    assert await asyncio.to_thread(leaving.stop) == 0
    elsewhere: set[str | None] = {machines[other].host for other in others}

    def have_moved() -> bool:
        return {mover.host for mover in movers} <= elsewhere

    await wait_until_async(have_moved, "the way to another host")
    for client in clients[::2]:
        await answered(client)
    await asyncio.to_thread(machines.start, index)
    await asyncio.to_thread(machines.settle)
    back = await connect(machines, index)
    await answered(back)
    await back.close()
    await end(streams, clients)
    for mover in movers:
        await mover.client.close()


async def answered(client: Client) -> None:
    """Ask until somebody answers: interest travels in its own time."""
    for _ in range(200):
        try:
            await client.request("mover", b"x", timeout=5)
        except nats.errors.NoRespondersError:
            await asyncio.sleep(0.02)
        else:
            return
    raise AssertionError("nobody answers")


FORMATIONS = {
    "three-shardd": ("shardd-2", "shardd-2", "shardd-2"),
    "two-shardd": ("shardd-2", "shardd-2", NATS_SERVER),
    "one-shardd": (NATS_SERVER, "shardd-2", NATS_SERVER),
}
formations = pytest.mark.parametrize(
    "kinds",
    [
        pytest.param(kinds, id=name, marks=() if name == "two-shardd" else pytest.mark.slow)
        for name, kinds in FORMATIONS.items()
    ],
)


@pytest.mark.slow
@formations
def test_all_hosts_are_restarted_one_after_the_other(form: Form, kinds: tuple[str, ...]) -> None:
    machines = form(*kinds, more=LAME_DUCK)

    async def run() -> None:
        for index in range(len(kinds)):
            await restart(machines, index)

    asyncio.run(run())


@formations
def test_hosts_join_and_leave(form: Form, kinds: tuple[str, ...]) -> None:
    machines = form(*kinds, more=LAME_DUCK)

    async def run() -> None:
        streams, clients = await streams_between(machines, range(len(kinds)))
        for kind in ("shardd-2", NATS_SERVER):
            newcomer = await asyncio.to_thread(machines.add, kind, [0, 1], LAME_DUCK)
            await asyncio.to_thread(machines.settle)
            await asyncio.to_thread(newcomer.stop)
            await asyncio.to_thread(machines.settle)
        await end(streams, clients)

    asyncio.run(run())


@pytest.mark.parametrize("kinds", [FORMATIONS["two-shardd"]], ids=["two-shardd"])
def test_a_router_dies_and_nobody_on_its_host_notices(form: Form, kinds: tuple[str, ...]) -> None:
    machines = form(*kinds)

    async def run() -> None:
        # Enough clients that every worker has some.
        streams, clients = await streams_between(machines, [0] * 4)
        for _ in range(3):
            old = kill_router(machines[0])
            await asyncio.to_thread(wait_replaced, machines[0], old)
            await asyncio.to_thread(machines.settle)
        gap_s = max(stream.gap_s for stream in streams)
        await end(streams, clients)
        assert gap_s < GAP_S_MAX, f"nothing was heard for {gap_s:.3f} s"
        print(f"longest pause: {gap_s * 1000:.0f} ms")

    asyncio.run(run())
