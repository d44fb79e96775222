"""Streaming servers without NATS: a probe for a bus, a store that obeys, a clock that is set.

A `Pool` is one server of one or several workers. Requests go to every worker that subscribes to
their subject, as NATS would do it; what workers send each other is handed on.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

from shardd.config.streaming import StreamingOptions
from shardd.streaming import pb
from shardd.streaming.bus_probe import ProbeBus
from shardd.streaming.channel import Channel
from shardd.streaming.messages import (
    Ack,
    CloseRequest,
    CloseResponse,
    ConnectRequest,
    ConnectResponse,
    MsgProto,
    Ping,
    PubAck,
    PubMsg,
    StartPosition,
    SubscriptionRequest,
    SubscriptionResponse,
    UnsubscribeRequest,
)
from shardd.streaming.protobuf import Message
from shardd.streaming.server import StreamingServer
from tests.support.streaming_store import Kept, StoreForTests

Response = TypeVar("Response", bound=Message)

CLUSTER = "test-cluster"
START_NS = 1_700_000_000_000_000_000
NO_RESPONDERS = b"NATS/1.0 503\r\n\r\n"


@dataclass
class Delivery:
    """A message that a subscriber was sent."""

    sequence: int
    data: bytes
    redelivered: bool
    count: int


class Worker:
    """One worker's process."""

    def __init__(self, pool: "Pool", index: int, kept: Kept) -> None:
        self.pool = pool
        self.index = index
        self.bus = ProbeBus()
        self.bus.is_heard = pool.is_heard
        self.store = StoreForTests(kept)
        self.wakes = 0
        self.ready: list[str] = []
        self.server = StreamingServer(
            pool.options, self.store, self.bus, index, pool.workers_count, seed=b"seed"
        )
        self.server.on_wake = self._wake

    def _wake(self) -> None:
        self.wakes += 1

    def start(self) -> None:
        """Begins to serve; `ready` holds what it said."""
        self.server.start(
            self.store.recover(), self.pool.now_ms, self.pool.now_ns, self.ready.append
        )

    def step(self) -> bool:
        """One pass, with commits and flushes that end at once; whether anything happened."""
        before = self.bus.count, self.store.commits, len(self.bus.flushes)
        self.server.tick(self.pool.now_ms, self.pool.now_ns)
        self.bus.flush_now()
        self.server.end_pass()
        if self.store.is_committing and not self.pool.holds_commits:
            self.store.finish()
            self.server.begin_pass(self.pool.now_ms, self.pool.now_ns)
            self.server.end_pass()
        return before != (self.bus.count, self.store.commits, len(self.bus.flushes))


class Pool:
    """One streaming server, and all NATS that it needs."""

    def __init__(self, options: StreamingOptions | None = None, workers: int = 1) -> None:
        self.options = options or StreamingOptions()
        self.workers_count = workers
        self.now_ms = 1_000_000
        self.now_ns = START_NS
        self.silent: set[bytes] = set()  # inboxes that are there and do not answer
        self.gone: set[bytes] = set()  # inboxes that are not there
        self.holds_commits = False
        self.keeps = [Kept() for _ in range(workers)]
        self.inbox: list[tuple[bytes, bytes, bytes]] = []  # subject, reply, payload for clients
        self.replies = 0
        self.workers: list[Worker | None] = []
        self.boot()

    # --- processes -------------------------------------------------------------------------------

    def boot(self) -> None:
        """Starts every worker."""
        self.workers = [None] * self.workers_count
        for index in range(self.workers_count):
            self.workers[index] = Worker(self, index, self.keeps[index])
            self.worker(index).start()
        self.run()
        for worker in self.alive:
            assert worker.ready == [""], worker.ready

    def worker(self, index: int = 0) -> Worker:
        """A worker that runs."""
        worker = self.workers[index]
        assert worker is not None
        return worker

    @property
    def alive(self) -> list[Worker]:
        """Every worker that runs."""
        return [worker for worker in self.workers if worker is not None]

    def kill(self, index: int = 0) -> None:
        """Without warning: what was not committed is lost."""
        self.workers[index] = None
        for worker in self.alive:
            worker.server.lose(index)

    def restart(self, index: int = 0) -> None:
        """A new process in its place."""
        self.workers[index] = Worker(self, index, self.keeps[index])
        self.worker(index).start()
        self.run()
        assert self.worker(index).ready == [""]

    def save(self) -> None:
        """Every position is stored, without waiting for its time."""
        for worker in self.alive:
            worker.server.stop()
        self.run()

    def crash(self) -> None:
        """The whole server, and again."""
        self.workers = [None] * self.workers_count
        self.boot()

    # --- NATS ------------------------------------------------------------------------------------

    def is_heard(self, subject: bytes) -> bool:
        """Whether anybody subscribes to it: clients do, unless they are gone."""
        if subject in self.gone:
            return False
        if subject.startswith((b"_STAN.discover", b"_SHARDD.")):
            return any(self._sids(worker, subject) for worker in self.alive)
        return True

    @staticmethod
    def _sids(worker: Worker, subject: bytes) -> list[int]:
        def matches(pattern: bytes) -> bool:
            if pattern.endswith(b".>"):
                return subject.startswith(pattern[:-1])
            if pattern.endswith(b".*"):
                return subject.rpartition(b".")[0] == pattern[:-2]
            return pattern == subject

        return [sid for sid, pattern in worker.bus.subscribed.items() if matches(pattern)]

    def send(
        self, subject: bytes, payload: bytes, reply: bytes = b"", sender: Worker | None = None
    ) -> None:
        """To every worker that subscribes."""
        for worker in self.alive:
            if worker is sender:
                continue
            worker.server.begin_pass(self.now_ms, self.now_ns)
            for sid in self._sids(worker, subject):
                worker.bus.hand(sid, subject, payload, reply)

    def run(self) -> None:
        """Until nothing happens any more without the clock going on."""
        is_busy = True
        while is_busy:
            is_busy = False
            for worker in self.alive:
                is_busy |= worker.step()
                sent = list(worker.bus.sent)
                worker.bus.sent.clear()
                for subject, reply, payload in sent:
                    is_busy = True
                    self._deliver(worker, subject, reply, payload)

    def _deliver(self, sender: Worker, subject: bytes, reply: bytes, payload: bytes) -> None:
        if subject.startswith(b"_SHARDD."):
            self.send(subject, payload, reply, sender)
        elif subject.startswith(b"hb."):
            if subject not in self.silent and subject not in self.gone:
                self.send(reply, b"")
        elif subject not in self.gone and not subject.startswith(b"_STAN.discover"):
            self.inbox.append((subject, reply, payload))

    def advance(self, milliseconds: int) -> None:
        """Time passes, in steps from deadline to deadline."""
        end_ms = self.now_ms + milliseconds
        while self.now_ms < end_ms:
            deadlines = [worker.server.next_deadline_ms() for worker in self.alive]
            times = [each for each in deadlines if each is not None and each > self.now_ms]
            step = min([*times, end_ms]) - self.now_ms
            self.now_ms += step
            self.now_ns += step * 1_000_000
            self.run()

    def set_clock(self, milliseconds: int) -> None:
        """Time passes while nothing runs."""
        self.now_ms += milliseconds
        self.now_ns += milliseconds * 1_000_000

    # --- a client --------------------------------------------------------------------------------

    def request(self, subject: bytes, payload: bytes) -> bytes | None:
        """The answer, or None."""
        self.replies += 1
        reply = b"reply.%d" % self.replies
        self.send(subject, payload, reply)
        self.run()
        answers = self.taken(reply)
        assert len(answers) <= 1, f"{len(answers)} answers"
        return answers[0] if answers else None

    def taken(self, subject: bytes) -> list[bytes]:
        """What arrived for one subject, which is then taken."""
        found = [payload for to, _, payload in self.inbox if to == subject]
        self.inbox = [each for each in self.inbox if each[0] != subject]
        return found

    def _ask(self, kind: type[Response], subject: bytes, request: Message) -> Response:
        answer = self.request(subject, request.encode())
        assert answer is not None, f"no answer to {request}"
        return kind.decode(answer)

    def connect(self, client_id: str, **fields: Any) -> ConnectResponse:
        """As current libraries do."""
        usual: dict[str, Any] = {
            "heartbeat_inbox": b"hb." + client_id.encode(),
            "conn_id": b"connection-" + client_id.encode(),
            "protocol": 1,
            "ping_interval": 5,
            "ping_max_out": 88,
        }
        request = ConnectRequest(client_id=client_id, **(usual | fields))
        return self._ask(ConnectResponse, b"_STAN.discover." + CLUSTER.encode(), request)

    def close(self, client_id: str) -> CloseResponse:
        """Ends a connection."""
        return self._ask(
            CloseResponse, b"_STAN.close." + CLUSTER.encode(), CloseRequest(client_id=client_id)
        )

    def ping(self, connection_id: bytes) -> bytes | None:
        """The raw answer."""
        return self.request(
            b"_STAN.discover.%b.pings" % CLUSTER.encode(), Ping(conn_id=connection_id).encode()
        )

    def publish_nowait(
        self, client_id: str, channel: bytes, data: bytes = b"x", **fields: Any
    ) -> bytes:
        """Returns where the ack arrives."""
        self.replies += 1
        reply = b"_STAN.acks.%d" % self.replies
        subject = fields.pop("nats_subject", b"_STAN.pub.%b.%b" % (CLUSTER.encode(), channel))
        message = {
            "client_id": client_id,
            "guid": b"guid-%d" % self.replies,
            "subject": channel,
            "data": data,
            "conn_id": b"connection-" + client_id.encode(),
        } | fields
        self.send(subject, PubMsg(**message).encode(), reply)
        return reply

    def publish(self, client_id: str, channel: bytes, data: bytes = b"x", **fields: Any) -> PubAck:
        """Waits for the ack."""
        reply = self.publish_nowait(client_id, channel, data, **fields)
        self.run()
        (ack,) = self.taken(reply)
        return PubAck.decode(ack)

    def publish_refused(self, client_id: str, channel: bytes) -> str:
        """The error that comes at once, without a commit."""
        return self.publish(client_id, channel).error

    def publish_many(self, client_id: str, channel: bytes, count: int) -> None:
        """That many, each acknowledged."""
        replies = [
            self.publish_nowait(client_id, channel, b"%d" % number) for number in range(count)
        ]
        self.run()
        for reply in replies:
            (ack,) = self.taken(reply)
            assert PubAck.decode(ack).error == ""

    def subscribe(
        self, client_id: str, channel: bytes, inbox: bytes = b"inbox", **fields: Any
    ) -> SubscriptionResponse:
        """Everything from the first message on, unless it is said otherwise."""
        fields = {
            "max_in_flight": 1024,
            "ack_wait_s": 30,
            "start_position": StartPosition.FIRST,
        } | fields
        request = SubscriptionRequest(client_id=client_id, subject=channel, inbox=inbox, **fields)
        return self._ask(SubscriptionResponse, b"_STAN.sub." + CLUSTER.encode(), request)

    def subscribe_nowait(self, client_id: str, channel: bytes, inbox: bytes, **fields: Any) -> None:
        """Asks, and does not look at the answer."""
        request = SubscriptionRequest(
            client_id=client_id,
            subject=channel,
            inbox=inbox,
            **({"max_in_flight": 1024, "ack_wait_s": 30} | fields),
        )
        self.send(b"_STAN.sub." + CLUSTER.encode(), request.encode())

    def subscribed(
        self, client_id: str, channel: bytes, inbox: bytes = b"inbox", **fields: Any
    ) -> bytes:
        """The ack inbox of a subscription that was made."""
        response = self.subscribe(client_id, channel, inbox, **fields)
        assert response.error == "", response.error
        return response.ack_inbox

    def end(
        self, client_id: str, channel: bytes, inbox: bytes, is_unsubscribe: bool = False
    ) -> str:
        """Closes or unsubscribes; returns the error."""
        verb = b"unsub" if is_unsubscribe else b"subclose"
        request = UnsubscribeRequest(client_id=client_id, subject=channel, inbox=inbox)
        subject = b"_STAN.%b.%b" % (verb, CLUSTER.encode())
        return self._ask(SubscriptionResponse, subject, request).error

    def ack(self, ack_inbox: bytes, channel: bytes, *sequences: int) -> None:
        """Acknowledges."""
        for sequence in sequences:
            self.send(ack_inbox, Ack(subject=channel, sequence=sequence).encode())
        self.run()

    def deliveries(self, inbox: bytes = b"inbox") -> list[Delivery]:
        """What the subscriber with this inbox was sent since the last call."""
        found = []
        for payload in self.taken(inbox):
            message = MsgProto.decode(payload)
            assert pb.decode_message(payload)[0] == message.sequence
            found.append(
                Delivery(
                    message.sequence, message.data, message.redelivered, message.redelivery_count
                )
            )
        return found

    def sequences(self, inbox: bytes = b"inbox") -> list[int]:
        """Only their sequences."""
        return [each.sequence for each in self.deliveries(inbox)]

    def channel(self, name: bytes) -> Channel:
        """The channel at whoever owns it."""
        for worker in self.alive:
            if name in worker.server.core.channels:
                return worker.server.core.channels[name]
        raise KeyError(name)
