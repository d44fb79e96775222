"""A host of several mesh members inside one process, driven step by step.

Each `Member` is what a worker is, without sockets and event loop: its own index, ring, dispatcher
and mesh, with the passes of a worker's pump. Rings, page and doorbells are the real ones; control
messages wait in a queue per pair, packed as on the wire, until a step delivers them. A member runs
only for a reason that would wake a worker: its doorbell, a control message, or its own clients.
"""

import select
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgpack

from shardd.router.dispatch import Dispatcher
from shardd.router.doorbell import Doorbell
from shardd.router.local import LocalClient
from shardd.router.mesh import SNAPSHOT, Mesh
from shardd.router.ring import Producer, Ring
from shardd.router.sublist import Sublist
from shardd.slots import Slots, State
from tests.support.server_model import ServerModel, Subscribed

RING_BYTES: Final = 65_536
NUMBER_BYTES: Final = 8
ROUNDS_MAX: Final = 10_000

Identity = tuple[int, int]  # slot and incarnation
Message = tuple[Any, ...]


class Post:
    """What a member's mesh sends by."""

    def __init__(self, host: "Host", own: Identity) -> None:
        self._host = host
        self._own = own
        self._peers: dict[int, int] = {}
        self.callbacks: deque[Callable[[], None]] = deque()

    def connect(self, slot: int, incarnation: int) -> None:
        """Open the way to a peer."""
        self._peers[slot] = incarnation

    def disconnect(self, slot: int) -> None:
        """Close it."""
        self._peers.pop(slot, None)

    def send(self, processes: int, message: Message) -> None:
        """Queue the message for each of the processes."""
        data = msgpack.packb(message, use_bin_type=True)
        for slot, incarnation in self._peers.items():
            if processes >> slot & 1 and self._host.lives((slot, incarnation)):
                way = (self._own, (slot, incarnation))
                self._host.ways.setdefault(way, deque()).append(data)

    def later(self, callback: Callable[[], None]) -> None:
        """Call back in a step of its own."""
        self.callbacks.append(callback)

    def news(self, content: tuple[object, ...]) -> None:
        """Nobody here makes anything known."""
        raise AssertionError(f"{content} was made known")

    def stall(self, client: int, milliseconds: int) -> None:
        """Nobody here is slow."""
        raise AssertionError(f"client {client} is held back for {milliseconds} ms")


class Client:
    """A client of one member, and what the model knows of it. Answers requests."""

    def __init__(self, member: "Member") -> None:
        self.member = member
        self.local = LocalClient(member.dispatcher, self._take)
        self.subscribed: dict[bytes, Subscribed] = {}
        self.sequence = 0  # of the interest that a PONG has to wait for; 0: none
        self.deferred: list[tuple[int, list[Subscribed]]] = []
        self.pongs: list[list[Subscribed]] = []  # written, and sent at the end of the pass
        self.answers_at_once = False

    def subscribe(self, pattern: bytes, queue: bytes | None) -> Subscribed:
        """SUB."""
        member = self.member
        one = member.host.model.subscribe(self, pattern, queue)
        sid = b"%d" % (member.host.take_number(),)
        self.subscribed[sid] = one
        assert self.local.subscribe(pattern, queue, sid)
        self.sequence = member.mesh.sequence + member.sublist.has_changes()
        member.is_in_pass = True
        return one

    def unsubscribe(self, one: Subscribed, deliveries_max: int) -> None:
        """UNSUB."""
        self.member.host.model.unsubscribe(one, deliveries_max)
        sid = next(sid for sid, other in self.subscribed.items() if other is one)
        self.local.unsubscribe(sid, deliveries_max)
        self.member.is_in_pass = True

    def publish(
        self, subject: bytes, length: int, reply: bytes = b"", is_echoed: bool = True
    ) -> int:
        """PUB; returns how many took it."""
        number = self.member.host.model.publish(self, subject, is_echoed)
        payload = number.to_bytes(NUMBER_BYTES, "little") + bytes(length)
        if self.member.host.has_unnoticed_dead():
            # A member of a group that is gone may still be chosen.
            self.member.host.model.messages[number].owed_groups.clear()
        self.member.is_in_pass = True
        self.member.unsent.append(number)
        if length > RING_BYTES // 8:
            self.member.oversize.append(number)
        header = b"NATS/1.0\r\nA: b\r\n\r\n" if number % 3 == 0 else b""
        return self.local.publish(subject, payload, reply, header, is_echoed)

    def ping(self) -> None:
        """PING: the PONG waits for the client's interest, as a connection's does."""
        new = [one for one in self.subscribed.values() if one.is_live]
        member = self.member
        if self.sequence and (self.deferred or not member.mesh.applied(self.sequence)):
            self.deferred.append((self.sequence, new))
        else:
            self.sequence = 0
            self.pongs.append(new)
        member.is_in_pass = True

    def release_deferred(self) -> None:
        """Say what may be said by now."""
        mesh = self.member.mesh
        while self.deferred and mesh.applied(min(self.deferred[0][0], mesh.sequence)):
            sequence, new = self.deferred.pop(0)
            if sequence >= self.sequence:
                self.sequence = 0
            self.pongs.append(new)

    def read_pongs(self) -> None:
        """The pass is over: what was written arrives."""
        for new in self.pongs:
            for one in new:
                one.is_confirmed = True
        self.pongs.clear()

    def _take(
        self, sid: bytes, subject: bytes, reply: bytes, header: bytes, payload: bytes
    ) -> None:
        number = int.from_bytes(payload[:NUMBER_BYTES], "little")
        assert header == (b"NATS/1.0\r\nA: b\r\n\r\n" if number % 3 == 0 else b"")
        assert not any(payload[NUMBER_BYTES:])
        self.member.host.model.receive(self.subscribed[sid], number, subject)
        model = self.member.host.model
        is_owed = not model.may_be_redirected(self.subscribed[sid], number)
        if reply and self.answers_at_once:
            self.answer(reply, is_owed)
        elif reply:
            self.member.answers.append(lambda: self.answer(reply, is_owed))

    def answer(self, reply: bytes, is_owed: bool) -> None:
        """Who has the request can reach who asked: its inbox is owed the answer."""
        model = self.member.host.model
        inbox = [one for one in model.live if one.pattern == reply and is_owed]
        confirmed = [one.is_confirmed for one in inbox]
        for one in inbox:
            one.is_confirmed = True
        self.publish(reply, 1)
        for one, was_confirmed in zip(inbox, confirmed, strict=True):
            one.is_confirmed = was_confirmed


class Member:
    """One process of the host."""

    def __init__(self, host: "Host", slot: int) -> None:
        self.host = host
        self.identity: Identity = (slot, host.slots.incarnation(slot))
        self.sublist = Sublist(seed=slot, cache_entries=16)
        self.producer = Producer(host.rings[slot], self.identity[1])
        self.dispatcher = Dispatcher(self.sublist, self.producer, slot, host.take_number() + 1)
        self.post = Post(host, self.identity)
        self.mesh = Mesh(host.slots, host.rings, host.doorbells, slot, self.dispatcher, self.post)
        self.doorbell = host.doorbells[slot]
        self.clients = [Client(self), Client(self)]
        self.answers: list[Callable[[], None]] = []
        self.unsent: list[int] = []  # messages that are not in the ring yet
        self.oversize: list[int] = []
        self.redirects = 0
        self.epoch = host.slots.epoch  # when it last looked for the dead
        self.is_accepting = False
        self.is_in_pass = False  # something began that `finish` ends
        self.mesh.now_ms = host.now_ms
        self.mesh.join()

    def is_rung(self) -> bool:
        """Whether the doorbell would wake its event loop."""
        poll = select.poll()
        poll.register(self.doorbell.fd, select.POLLIN)
        return bool(poll.poll(0))

    def is_runnable(self) -> bool:
        """Whether its event loop has something to do."""
        return self.is_in_pass or bool(self.post.callbacks) or self.is_rung()

    def run(self) -> None:
        """One pass, as of a worker that was rung."""
        self.doorbell.clear()
        self.doorbell.wake_up()
        self.mesh.now_ms = self.host.now_ms
        self.epoch = self.host.slots.epoch
        self.mesh.read_rings()
        self.finish()

    def finish(self) -> None:
        """The end of a pass, then sleep, unless something came meanwhile."""
        self.host.model.redirects += self.dispatcher.handed_on - self.redirects
        self.redirects = self.dispatcher.handed_on
        for answer in self.answers:
            answer()
        self.answers.clear()
        self.dispatcher.finish()
        if not self.dispatcher.is_full:
            self.unsent.clear()
        for client in self.clients:
            client.release_deferred()
            client.read_pongs()
        self.is_in_pass = False
        self.doorbell.fall_asleep()
        if self.mesh.has_unread():
            self.doorbell.ring_always()

    def on_control(self) -> None:
        """Control messages came, or a tick of a process that boots."""
        if not self.is_accepting and self.mesh.is_complete():
            self.is_accepting = True
        self.finish()


class Host:
    """All members, the shared page, and the supervisor's part."""

    def __init__(self, count: int) -> None:
        self.model = ServerModel()
        self.slots = Slots(count)
        self.rings = tuple(Ring(RING_BYTES, count) for _ in range(count))
        self.doorbells = [Doorbell(self.slots, slot) for slot in range(count)]
        self.members: dict[int, Member] = {}
        self.unreaped: set[int] = set()
        self.ways: dict[tuple[Identity, Identity], deque[bytes]] = {}
        self.reaped_epoch = 0
        self.known: set[tuple[Identity, Identity]] = set()
        self.now_ms = 1
        self._number = 0

    def take_number(self) -> int:
        """The next one."""
        self._number += 1
        return self._number

    def lives(self, identity: Identity) -> bool:
        """Whether this very process is there to receive."""
        member = self.members.get(identity[0])
        return member is not None and member.identity == identity

    def has_unnoticed_dead(self) -> bool:
        """Whether anybody may still count on a process that has died."""
        return bool(self.unreaped) or any(
            member.epoch < self.reaped_epoch for member in self.members.values()
        )

    # --- the supervisor ------------------------------------------------------------------------

    def start(self, slot: int) -> Member:
        """Fork a process into an empty slot."""
        self.slots.reset(slot, 1)
        self.members[slot] = Member(self, slot)
        return self.members[slot]

    def kill(self, slot: int, arriving: int) -> None:
        """SIGKILL: no goodbye, and only the first `arriving` of its messages were handed on."""
        dead = self.members.pop(slot)
        for client in dead.clients:
            for one in client.subscribed.values():
                self.model.unsubscribe(one)
        for message in self.model.unsettled():
            # The member of a group that was chosen may have been here.
            message.owed_groups.clear()
        for number in dead.unsent + dead.oversize:
            self.model.messages[number].owed.clear()
        unknown = [
            member.clients
            for member in self.members.values()
            if (dead.identity, member.identity) not in self.known
        ]
        for message in self.model.unsettled():
            if message.publisher in dead.clients:
                message.owed -= {
                    one for one in message.owed for clients in unknown if one.client in clients
                }
        for (sender, receiver), way in self.ways.items():
            if receiver == dead.identity:
                way.clear()
            while sender == dead.identity and len(way) > arriving:
                way.pop()
        self.unreaped.add(slot)

    def reap(self, slot: int) -> None:
        """The supervisor finds the dead."""
        self.unreaped.discard(slot)
        self.slots.clear(slot)
        self.reaped_epoch = self.slots.epoch
        for doorbell in self.doorbells:
            doorbell.ring_always()

    # --- steps ---------------------------------------------------------------------------------

    def full_ways(self) -> list[tuple[Identity, Identity]]:
        """The pairs with a message on its way, in a fixed order."""
        return sorted(way for way, messages in self.ways.items() if messages)

    def deliver(self, way: tuple[Identity, Identity], count: int) -> None:
        """Hand over the oldest messages from one member to another."""
        member = self.members[way[1][0]]
        for _ in range(min(count, len(self.ways[way]))):
            message = msgpack.unpackb(self.ways[way].popleft(), use_list=False, raw=False)
            member.mesh.on_message(tuple(message))
            if message[0] == SNAPSHOT and message[3] is not None:
                self.known.add(way)
        member.on_control()

    def settle(self) -> None:
        """Let all that is under way arrive; nobody runs who would not be woken."""
        for slot in sorted(self.unreaped):
            self.reap(slot)
        for _ in range(ROUNDS_MAX):
            ways = self.full_ways()
            if ways:
                self.deliver(ways[0], 1)
            runnable = [member for member in self.members.values() if member.is_runnable()]
            for member in runnable:
                if member.post.callbacks:
                    member.post.callbacks.popleft()()
                member.run()
            for member in self.members.values():
                if not member.is_accepting:
                    member.on_control()
            if not ways and not runnable:
                return
        raise AssertionError("the host does not come to rest")

    def check_rest(self) -> None:
        """Nothing is held back, and nobody holds anybody back."""
        self.model.settle()
        for member in self.members.values():
            assert not member.dispatcher.is_full
            assert not any(client.deferred for client in member.clients)
        # Who is not addressed may sleep on, until there is something else to do.
        for member in self.members.values():
            member.run()
        joined = sum(1 << slot for slot in self.members)
        for slot, member in self.members.items():
            assert self.slots.state(slot) is State.READY
            assert not member.mesh.has_unread()
            assert member.producer.attached == joined & ~(1 << slot)
            assert member.producer.consumed() == member.producer.published
