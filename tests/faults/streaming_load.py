"""Publishers and subscribers on channels of a streaming server that is being killed.

Everything they do is recorded for `streaming_history.check`. Clients are nats-py connections that
speak the streaming protocol as the official libraries do; what is asked of the server is asked
again until it answers, or for `PATIENCE_S`: then an error says who waited for what.

Nothing here is cancelled: nats-py swallows a cancellation while it closes a connection, and the
task that was to end goes on. Who runs looks whether it is over.
"""

import asyncio
import contextlib
import itertools
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, Final, TypeVar

import nats
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from shardd.streaming import messages as pb
from shardd.streaming.messages import StartPosition
from shardd.streaming.protobuf import Message
from tests.faults.streaming_history import (
    Acked,
    Closed,
    Delivered,
    Event,
    Killed,
    Read,
    Recovered,
    Refused,
    Sent,
    Stored,
)
from tests.support.streaming_wire import CLOSE, DISCOVER, PUB, SUB, SUB_CLOSE
from tests.support.waiting import PATIENCE

ANSWER_S: Final = 1.0
PATIENCE_S: Final = 30.0 * PATIENCE
CONNECT_S: Final = 10.0 * PATIENCE
WINDOW: Final = 64
ACK_WAIT_S: Final = 1

T = TypeVar("T")


class Channel:
    """One channel and its history."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.history: list[Event] = []
        self.acked: dict[str, set[int]] = {}  # by subscription, as in the history


class Peer:
    """A streaming client: a NATS connection that comes back, and a client id."""

    def __init__(self, url: str, client_id: str) -> None:
        self._url = url
        self.client_id = client_id
        self.nats = Client()
        self._fault = ""  # the last one of the connection

    async def open(self) -> None:
        """Connect; a client of this id that is left over is replaced."""
        await self._retry(self._dial, "a connection")
        await self._retry(self._register, "a streaming connection")

    async def _register(self) -> None:
        # An answer may have been lost: with an inbox of its own each attempt can replace the
        # one before it.
        inbox = self.nats.new_inbox()
        beats = await self.nats.subscribe(inbox, cb=beat)
        request = pb.ConnectRequest(
            client_id=self.client_id, heartbeat_inbox=inbox.encode(), protocol=1,
            conn_id=self.client_id.encode(),
        )  # fmt: skip
        answer = pb.ConnectResponse.decode(await self._ask_once(DISCOVER, request))
        if not answer.error:
            return
        assert answer.error == "stan: clientID already registered", answer.error
        await beats.unsubscribe()
        await self._ask_once(CLOSE, pb.CloseRequest(client_id=self.client_id))
        raise TimeoutError(answer.error)

    async def _dial(self) -> None:
        connecting = nats.connect(
            self._url, max_reconnect_attempts=-1, reconnect_time_wait=0.02, error_cb=self._note,
            allow_reconnect=True, connect_timeout=2, ping_interval=5,
        )  # fmt: skip
        self.nats = await asyncio.wait_for(connecting, CONNECT_S)

    async def _note(self, fault: Exception) -> None:
        """Connections break here all the time; it is told if one does not come back."""
        self._fault = repr(fault)

    async def drop(self) -> None:
        """End without a word to the streaming server; whatever it takes, it is closed."""
        closing = asyncio.ensure_future(self.nats.close())
        done, _ = await asyncio.wait({closing}, timeout=CONNECT_S)
        assert done, f"{self.client_id}: the connection does not close: {where(closing)}"
        # One that was broken already makes nats-py stop halfway, with whatever broke it.
        (fault,) = await asyncio.gather(closing, return_exceptions=True)
        self._fault = repr(fault)

    async def _ask_once(self, subject: bytes, request: Message) -> bytes:
        payload = request.encode()
        answer = await self.nats.request(subject.decode(), payload, timeout=ANSWER_S)
        return answer.data

    async def ask(self, subject: bytes, request: Message) -> bytes:
        """Ask until there is an answer."""
        what = f"an answer to {request}"
        return await self._retry(lambda: self._ask_once(subject, request), what)

    async def reach(self, check: Callable[[], None]) -> None:
        """What is sent from now on is not lost on a connection that is dead already. `check` is
        called before each attempt: the connection may be one that a task has to make first."""

        async def once() -> None:
            check()
            await self.nats.flush(2)

        await self._retry(once, "a PONG")

    async def _retry(self, attempt: Callable[[], Awaitable[T]], what: str) -> T:
        try:
            return await retry(attempt, f"{self.client_id}: {what}")
        except AssertionError as error:
            state = f"is_closed={self.nats.is_closed}, last_error={self.nats.last_error!r}"
            raise AssertionError(f"{error}; connection: {state}, {self._fault}") from error


async def beat(message: Msg) -> None:
    """Answer a heartbeat."""
    with contextlib.suppress(NatsError):
        await message.respond(b"")


async def retry(attempt: Callable[[], Awaitable[T]], what: str) -> T:
    """Try again while servers come and go; an AssertionError says what never came."""
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while True:
        try:
            return await attempt()
        except (NatsError, OSError, TimeoutError) as error:
            if asyncio.get_running_loop().time() > deadline:
                text = f"{what}: not within {PATIENCE_S:.0f} s, the last time {error!r}"
                raise AssertionError(text) from error
            await asyncio.sleep(0.02)


def where(task: asyncio.Future[Any]) -> str:
    """At which line a task waits, from the outermost frame on."""
    places = []
    coroutine = task.get_coro() if isinstance(task, asyncio.Task) else None
    while (frame := getattr(coroutine, "cr_frame", None)) is not None:
        places.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
        coroutine = getattr(coroutine, "cr_await", None)
    return " > ".join(places)


class Publisher:
    """Sends on all channels, with so many messages under way; counts on no answer."""

    def __init__(self, peer: Peer, channels: Iterable[Channel], rng: random.Random) -> None:
        self.peer = peer
        self._channels = {channel.name: channel for channel in channels}
        self._rng = rng
        self._numbers = itertools.count(1)
        self._under_way: set[str] = set()
        self._room = asyncio.Event()
        self._inbox = ""

    async def open(self) -> None:
        """Connect."""
        await self.peer.open()
        self._inbox = self.peer.nats.new_inbox()
        await self.peer.nats.subscribe(self._inbox, cb=self._answered)

    async def _answered(self, message: Msg) -> None:
        answer = pb.PubAck.decode(message.data)
        guid = answer.guid.decode()
        self._under_way.discard(guid)
        if len(self._under_way) < WINDOW:
            self._room.set()
        event = Refused(guid) if answer.error else Stored(guid)
        self._channels[guid.partition(" ")[0]].history.append(event)

    async def send(self, channel: Channel) -> str:
        """Send one message; returns its body."""
        who = self.peer.client_id
        body = f"{channel.name} {who} {next(self._numbers)}"
        padded = body.encode() + b" " + b"." * self._rng.choice((0, 10, 100, 1000, 5000))
        message = pb.PubMsg(
            client_id=who, conn_id=who.encode(), guid=body.encode(),
            subject=channel.name.encode(), data=padded,
        )  # fmt: skip
        channel.history.append(Sent(who, body))
        self._under_way.add(body)
        subject = PUB.decode() + channel.name
        with contextlib.suppress(NatsError):
            await self.peer.nats.publish(subject, message.encode(), reply=self._inbox)
        return body

    async def run(self, over: asyncio.Event) -> None:
        """Send until it is over."""
        while not over.is_set():
            if len(self._under_way) >= WINDOW:
                self._room.clear()
                try:
                    await asyncio.wait_for(self._room.wait(), ANSWER_S)
                except TimeoutError:
                    self._under_way.clear()  # their fate stays unknown
            await self.send(self._rng.choice(list(self._channels.values())))
            await asyncio.sleep(0)

    async def deliver(self, channel: Channel) -> None:
        """Send messages until one of them is stored."""

        async def once() -> None:
            wanted = Stored(await self.send(channel))
            for _ in range(50):
                if wanted in channel.history[-2000:]:
                    return
                await asyncio.sleep(ANSWER_S / 50)
            raise TimeoutError

        await retry(once, f"{self.peer.client_id}: a message stored in {channel.name}")


class Subscriber:
    """One member of a subscription; a durable has one member, a group several."""

    def __init__(
        self, peer: Peer, channel: Channel, rng: random.Random, name: str, *, group: str = ""
    ) -> None:
        self.peer = peer
        self.channel = channel
        self.name = name  # of the subscription
        self.life = 0
        self._group = group
        self._rng = rng
        self._refuses = 0.1  # share of messages that it does not acknowledge at first
        self._inbox = ""
        self._ack_inbox = ""

    async def open(self, life: int) -> None:
        """Begin, or begin again."""
        self.life = life
        self._inbox = self.peer.nats.new_inbox()
        self._ack_inbox = ""
        # What arrives is told apart by the life that it belongs to.
        await self.peer.nats.subscribe(self._inbox, cb=partial(self._got, life=life))
        request = pb.SubscriptionRequest(
            client_id=self.peer.client_id, subject=self.channel.name.encode(),
            queue_group=self._group, inbox=self._inbox.encode(), max_in_flight=256,
            ack_wait_s=ACK_WAIT_S, durable_name="durable", start_position=StartPosition.FIRST,
        )  # fmt: skip

        async def once() -> str:
            answer = b""
            with contextlib.suppress(NatsError):
                subject, payload = SUB.decode(), request.encode()
                answer = (await self.peer.nats.request(subject, payload, timeout=ANSWER_S)).data
            response = pb.SubscriptionResponse.decode(answer)
            if not response.ack_inbox:
                await self._end()  # it may have been made, and its answer lost
                raise TimeoutError(response.error or "no answer")
            return response.ack_inbox.decode()

        what = f"{self.peer.client_id}: a subscription of {self.channel.name}"
        self._ack_inbox = await retry(once, what)

    async def _end(self) -> str:
        request = pb.UnsubscribeRequest(
            client_id=self.peer.client_id, subject=self.channel.name.encode(),
            inbox=(self._ack_inbox or self._inbox).encode(),
        )  # fmt: skip
        answer = await self.peer.ask(SUB_CLOSE, request)
        return pb.SubscriptionResponse.decode(answer).error

    async def close(self) -> bool:
        """End in good order; whether the server said that it has ended now."""
        self.life = 0  # an ack that is sent behind the request would come too late
        return not await self._end()

    async def _got(self, message: Msg, life: int) -> None:
        got = pb.MsgProto.decode(message.data)
        body = got.data.decode().rpartition(" ")[0]
        record = self.channel.history.append
        member = self.peer.client_id
        record(Delivered(self.name, life, member, got.sequence, body, got.redelivered))
        if not self._ack_inbox or life != self.life or self._rng.random() < self._refuses:
            return
        with contextlib.suppress(NatsError):
            ack = pb.Ack(subject=self.channel.name.encode(), sequence=got.sequence)
            await self.peer.nats.publish(self._ack_inbox, ack.encode())
            record(Acked(self.name, life, got.sequence))
            self.channel.acked.setdefault(self.name, set()).add(got.sequence)


class Subscription:
    """A durable or a durable group: its members end and begin again."""

    def __init__(self, members: list[Subscriber], rng: random.Random) -> None:
        self.members = members
        self._rng = rng
        self._life = 0

    async def open(self) -> None:
        """All members begin."""
        self._life += 1
        for member in self.members:
            await member.open(self._life)

    async def disturb(self) -> None:
        """End in one of several ways, and begin again."""
        if self._rng.random() < 0.5:
            await self._restart()
        else:
            await self._lose(self._rng.choice(self.members))

    async def _restart(self) -> None:
        """Close all members in good order."""
        closed = [await member.close() for member in self.members]
        if all(closed):
            name = self.members[0].name
            self.members[0].channel.history.append(Closed(name, self._life))
        await self.open()

    async def _lose(self, member: Subscriber) -> None:
        """A member's connection is cut, and its client comes back under its id."""
        await member.peer.drop()
        await member.peer.open()
        if len(self.members) == 1:
            self._life += 1
        await member.open(self._life)

    async def run(self, over: asyncio.Event) -> None:
        """Disturb it from time to time until it is over; then it is whole."""
        while not over.is_set():
            await asyncio.sleep(self._rng.uniform(0.1, 0.6))
            await self.disturb()


class Campaign:
    """Two channels, each with two publishers, a durable and a durable group of two."""

    def __init__(self, url: str, rng: random.Random) -> None:
        self._url = url
        self._rng = rng
        self.channels = [Channel(f"history.{rng.randrange(10**6)}.{n}") for n in range(2)]
        self._publishers = [
            Publisher(Peer(url, f"publisher-{n}"), self.channels, rng) for n in range(2)
        ]
        self._subscriptions = [
            Subscription(
                [
                    Subscriber(Peer(url, f"{name}-{number}-{at}"), channel, rng, name, group=group)
                    for number in range(2 if group else 1)
                ],
                rng,
            )
            for at, channel in enumerate(self.channels)
            for name, group in (("alone", ""), ("group", "workers"))
        ]
        self._tasks: list[asyncio.Task[None]] = []
        self._over = asyncio.Event()
        self._probe = Publisher(Peer(url, "probe"), self.channels, rng)

    def _peers(self) -> list[Peer]:
        publishers = [each.peer for each in (self._probe, *self._publishers)]
        return publishers + [member.peer for each in self._subscriptions for member in each.members]

    def record(self, event: Event) -> None:
        """The same event for all channels."""
        for channel in self.channels:
            channel.history.append(event)

    async def start(self) -> None:
        """Connect everyone and let them run."""
        for publisher in (self._probe, *self._publishers):
            await publisher.open()
        for subscription in self._subscriptions:
            for member in subscription.members:
                await member.peer.open()
            await subscription.open()
        self._run(*(each.run(self._over) for each in self._publishers))
        self._run(*(each.run(self._over) for each in self._subscriptions))

    def _run(self, *jobs: Coroutine[Any, Any, None]) -> None:
        self._tasks += [asyncio.create_task(job) for job in jobs]

    def check_alive(self) -> None:
        """Raise what ended one of the tasks."""
        for task in self._tasks:
            if task.done():
                task.result()

    async def survive(self, kill: Any) -> None:
        """Kill, and return when all clients have reached the server again."""
        self.record(Killed())
        await asyncio.to_thread(kill)
        for channel in self.channels:
            await self._probe.deliver(channel)
        for peer in self._peers():
            await peer.reach(self.check_alive)
        self.record(Recovered())
        self.check_alive()

    async def finish(self) -> None:
        """Stop publishing and disturbing, read the channels, wait for the subscribers, end."""
        self._over.set()
        _, pending = await asyncio.wait(self._tasks, timeout=PATIENCE_S)
        assert not pending, [where(task) for task in pending]
        self.check_alive()
        for channel in self.channels:
            await self._probe.deliver(channel)
            await self._read(channel)
        await self._drain()
        for peer in self._peers():
            await peer.drop()

    async def _read(self, channel: Channel) -> None:
        """Record all that the channel holds, up to what the probe stored last."""
        stored = [each.body for each in channel.history if isinstance(each, Stored)]
        last = next(body for body in reversed(stored) if " probe " in body)
        done = asyncio.Event()

        async def got(message: Msg) -> None:
            each = pb.MsgProto.decode(message.data)
            body = each.data.decode().rpartition(" ")[0]
            if not done.is_set():
                channel.history.append(Read(each.sequence, body))
            if body == last:
                done.set()

        peer = self._probe.peer
        inbox = peer.nats.new_inbox()
        await peer.nats.subscribe(inbox, cb=got, pending_msgs_limit=-1, pending_bytes_limit=-1)
        request = pb.SubscriptionRequest(
            client_id=peer.client_id, subject=channel.name.encode(), inbox=inbox.encode(),
            max_in_flight=10**6, ack_wait_s=600, start_position=StartPosition.FIRST,
        )  # fmt: skip
        answer = pb.SubscriptionResponse.decode(await peer.ask(SUB, request))
        assert answer.error == ""
        try:
            await asyncio.wait_for(done.wait(), PATIENCE_S)
        except TimeoutError:
            count = sum(isinstance(each, Read) for each in channel.history)
            raise AssertionError(f"{channel.name}: {count} read, and not {last}") from None

    async def _drain(self) -> None:
        """Give the subscribers time for all that is left; the checker says what did not come."""
        deadline = asyncio.get_running_loop().time() + PATIENCE_S
        while asyncio.get_running_loop().time() < deadline:
            if all(self._is_drained(channel) for channel in self.channels):
                return
            await asyncio.sleep(0.05)

    def _is_drained(self, channel: Channel) -> bool:
        last = sum(isinstance(event, Read) for event in channel.history)
        return all(
            len(channel.acked.get(each.members[0].name, ())) >= last
            for each in self._subscriptions
            if each.members[0].channel is channel
        )
