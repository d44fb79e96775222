"""A pool whose workers die and come back: nothing acknowledged is lost, all agree in the end."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from shardd.config.streaming import StreamingOptions
from shardd.streaming.messages import (
    CloseRequest,
    ConnectRequest,
    ConnectResponse,
    PubAck,
    StartPosition,
    SubscriptionRequest,
    SubscriptionResponse,
)
from shardd.streaming.subjects import partition_of
from tests.support.streaming_worker import Pool

WORKERS = 3
CLIENTS = ("me", "you")
CHANNELS = [
    next(
        name
        for name in (b"channel.%d" % number for number in range(1000))
        if partition_of(name) % WORKERS == worker
    )
    for worker in range(WORKERS)
]

clients = st.sampled_from(CLIENTS)
workers = st.integers(0, WORKERS - 1)
steps = st.one_of(
    st.tuples(st.just("connect"), clients),
    st.tuples(st.just("close"), clients),
    st.tuples(st.just("die"), clients),
    st.tuples(st.just("publish"), clients, workers),
    st.tuples(st.just("subscribe"), clients, workers),
    st.tuples(st.just("ack"), clients, workers, st.integers(0, 3)),
    st.tuples(st.just("kill"), workers),
    st.tuples(st.just("restart"), workers),
    st.tuples(st.just("advance"), st.sampled_from([1, 60, 600, 1500])),
)


@dataclass
class Durable:
    """What the owner of one durable subscription has been sent and has acknowledged."""

    ack_inbox: bytes = b""
    held: list[int] = field(default_factory=list)
    seen: dict[int, bytes] = field(default_factory=dict)
    newest: int = 0


class World:
    """Clients who remember what they were told. Who is connected as what, they do not know for
    certain while a worker is dead."""

    def __init__(self) -> None:
        self.pool = Pool(StreamingOptions(heartbeat_interval_s=1e6), WORKERS)
        self.published = 0
        self.acknowledged: dict[bytes, list[bytes]] = {name: [] for name in CHANNELS}
        self.durables: dict[tuple[str, bytes], Durable] = {}

    def connect(self, client_id: str) -> None:
        request = ConnectRequest(
            client_id, b"hb." + client_id.encode(), 1, b"c-" + client_id.encode()
        )
        answer = self.pool.request(b"_STAN.discover.test-cluster", request.encode())
        if answer is None:
            assert self.pool.workers[0] is None, "the lead did not answer"
        else:
            error = ConnectResponse.decode(answer).error
            assert error in {"", "stan: clientID already registered"}

    def close(self, client_id: str) -> None:
        self.pool.request(b"_STAN.close.test-cluster", CloseRequest(client_id).encode())
        self.pool.advance(5000)  # the lead may wait for one that has died unnoticed

    def die(self, client_id: str) -> None:
        """Without a word; the next one with its id takes its place."""
        self.pool.gone.add(b"hb." + client_id.encode())
        self.connect(client_id)
        self.pool.gone.clear()

    def publish(self, client_id: str, worker: int) -> None:
        self.published += 1
        data = b"%d" % self.published
        reply = self.pool.publish_nowait(
            client_id, CHANNELS[worker], data, conn_id=b"c-" + client_id.encode()
        )
        self.pool.run()
        for answer in self.pool.taken(reply):
            if not PubAck.decode(answer).error:
                self.acknowledged[CHANNELS[worker]].append(data)

    def subscribe(self, client_id: str, worker: int) -> None:
        name = CHANNELS[worker]
        request = SubscriptionRequest(
            client_id=client_id,
            subject=name,
            inbox=b"in.%b.%b" % (client_id.encode(), name),
            max_in_flight=3,
            ack_wait_s=1,
            durable_name="d",
            start_position=StartPosition.FIRST,
        )
        answer = self.pool.request(b"_STAN.sub.test-cluster", request.encode())
        if answer is None:
            assert self.pool.workers[worker] is None, "the owner did not answer"
            return
        response = SubscriptionResponse.decode(answer)
        assert response.error in {
            "",
            "stan: unknown clientID",
            "stan: duplicate durable registration",
        }
        if not response.error:
            durable = self.durables.setdefault((client_id, name), Durable())
            durable.ack_inbox = response.ack_inbox

    def ack(self, client_id: str, worker: int, which: int) -> None:
        durable = self.durables.get((client_id, CHANNELS[worker]))
        if durable is not None and durable.held:
            sequence = durable.held.pop(which % len(durable.held))
            self.pool.ack(durable.ack_inbox, CHANNELS[worker], sequence)

    def kill(self, worker: int) -> None:
        if self.pool.workers[worker] is not None:
            self.pool.kill(worker)

    def restart(self, worker: int) -> None:
        if self.pool.workers[worker] is None:
            self.boot(worker)

    def boot(self, worker: int) -> None:
        try:
            self.pool.restart(worker)
        except AssertionError:
            # Without a lead it waits until there is one.
            assert self.pool.workers[0] is None
            assert self.pool.worker(worker).ready == []

    def advance(self, milliseconds: int) -> None:
        self.pool.advance(milliseconds)

    def check(self) -> None:
        for (client_id, name), durable in self.durables.items():
            for each in self.pool.deliveries(b"in.%b.%b" % (client_id.encode(), name)):
                assert durable.seen.setdefault(each.sequence, each.data) == each.data
                durable.held.append(each.sequence)
                assert each.redelivered or each.sequence <= durable.newest + 1, "one is missing"
                durable.newest = max(durable.newest, each.sequence)

    def settle(self) -> None:
        """Everybody lives again; both clients connect anew, and are sent all there is."""
        for worker in range(WORKERS):
            self.restart(worker)
        self.pool.advance(2000)
        self.check()
        for client_id in CLIENTS:
            self.close(client_id)
            self.connect(client_id)
            for worker in range(WORKERS):
                self.subscribe(client_id, worker)
        for _ in range(60):
            self.pool.advance(500)
            self.check()
            for (_, name), durable in self.durables.items():
                self.pool.ack(durable.ack_inbox, name, *durable.held)
                durable.held.clear()


@settings(max_examples=60, deadline=None)
@given(st.lists(steps, max_size=40))
def test_workers_may_die_and_nothing_acknowledged_is_lost(life: list[tuple]) -> None:
    world = World()
    for client_id in CLIENTS:
        world.connect(client_id)
    for kind, *values in life:
        getattr(world, kind)(*values)
        world.check()
    world.settle()
    known = [
        {client.row.client_id for client in worker.server.core.clients}
        for worker in world.pool.alive
    ]
    assert known == [set(CLIENTS)] * WORKERS
    assert len(world.durables) == len(CLIENTS) * WORKERS
    for (_, name), durable in world.durables.items():
        sequences = sorted(durable.seen)
        assert sequences == list(range(1, len(sequences) + 1)), "a gap"
        found = [durable.seen[sequence] for sequence in sequences]
        assert set(world.acknowledged[name]) <= set(found)
        assert [each for each in found if each in world.acknowledged[name]] == (
            world.acknowledged[name]
        )
