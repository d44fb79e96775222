"""What a message costs in the streaming core, with a store in memory and a bus that goes nowhere:
`python -m bench.micro.streaming`.

Publishing: PubMsg in, appended, committed, PubAck out. Delivering: out of the log to one
subscriber, its ack in. The store and NATS come on top of both. Printed is the best of several
rounds.
"""

import time
from collections.abc import Callable
from typing import Final

from shardd.config.streaming import ChannelLimits, StoreLimits, StreamingOptions
from shardd.streaming.bus_probe import ProbeBus
from shardd.streaming.memory_store import MemoryStore
from shardd.streaming.messages import (
    Ack,
    ConnectRequest,
    PubMsg,
    StartPosition,
    SubscriptionRequest,
)
from shardd.streaming.receiver import ACKS, DISCOVER, PUBLISH, SUBSCRIBE
from shardd.streaming.server import StreamingServer
from shardd.streaming.subjects import partition_of

PAYLOAD_SIZES: Final = (128, 1024)
MESSAGES: Final = 100_000
PASS: Final = 512  # messages that one turn of an event loop hands in
ROUNDS: Final = 5
CHANNEL: Final = b"bench.channel"
CONNECTION: Final = b"Zk3q0bJ7Yc2mD5vW8nR1xT"


class Worker:
    """A server of one worker and one client."""

    def __init__(self) -> None:
        self.bus = ProbeBus()
        self.turns: list[Callable[[], object]] = []
        unlimited = StoreLimits(defaults=ChannelLimits(max_msgs=0, max_bytes=0))
        store = MemoryStore(self.turns.append)
        self.server = StreamingServer(StreamingOptions(limits=unlimited), store, self.bus)
        self.bus.is_heard = lambda subject: False
        self.server.start(store.recover(), 1, 1, lambda error: None)
        self.turn()
        request = ConnectRequest("bench", b"hb", 1, CONNECTION)
        self.bus.hand(DISCOVER, b"discover", request.encode(), b"reply")
        self.turn()
        self.bus.is_counting = True

    def turn(self) -> None:
        """Passes until nothing waits."""
        self.server.end_pass()
        while self.turns or self.bus.flushes:
            self.bus.flush_now()
            turns, self.turns[:] = list(self.turns), []
            for each in turns:
                each()
            self.server.end_pass()

    def publish(self, size: int) -> float:
        """Seconds for all messages."""
        message = PubMsg(
            client_id="bench",
            guid=b"4Hs9Lp6Zk3q0bJ7Yc2mD5v",
            subject=CHANNEL,
            data=b"x" * size,
            conn_id=CONNECTION,
        ).encode()
        subject = b"_STAN.pub.test-cluster." + CHANNEL
        reply = b"_STAN.acks.Zk3q0bJ7Yc2mD5vW8nR1xT"
        start = time.perf_counter()
        for _ in range(MESSAGES // PASS):
            self.bus.hand_many(PUBLISH, subject, message, reply, PASS)
            self.turn()
        return time.perf_counter() - start

    def subscribe(self, queue_group: str, number: int) -> bytes:
        """From the first message on; returns the ack inbox."""
        request = SubscriptionRequest(
            client_id="bench",
            subject=CHANNEL,
            inbox=b"_INBOX.Zk3q0bJ7Yc2mD5vW8nR1xT",
            queue_group=queue_group,
            max_in_flight=PASS,
            ack_wait_s=30,
            start_position=StartPosition.FIRST,
        )
        self.bus.hand(SUBSCRIBE, b"sub", request.encode(), b"reply")
        self.turn()
        part = partition_of(CHANNEL)
        return b"%b.%d.%d" % (self.server.core.server_row.inbox_prefix, part, number)

    def deliver(self, queue_group: str, number: int) -> float:
        """Seconds to deliver and acknowledge all messages that are there."""
        last = self.server.core.channels[CHANNEL].log.last
        acks = [Ack(CHANNEL, sequence).encode() for sequence in range(1, last + 1)]
        start = time.perf_counter()
        subject = self.subscribe(queue_group, number)
        sid = ACKS + partition_of(CHANNEL)
        for position in range(0, last, PASS):
            self.bus.hand_each(sid, subject, acks[position : position + PASS])
            self.turn()
        seconds = time.perf_counter() - start
        subscription = self.server.core.channels[CHANNEL].subscriptions[number]
        assert subscription.last_sent == last
        assert subscription.in_flight.count == 0
        return seconds


def main() -> None:
    """Prints one line per size and kind, in microseconds a message."""
    for size in PAYLOAD_SIZES:
        best: dict[str, float] = {}
        for _ in range(ROUNDS):
            worker = Worker()
            found = {
                "published": worker.publish(size),
                "delivered and acknowledged": worker.deliver("", 1),
                "the same in a queue group": worker.deliver("group", 2),
            }
            for name, seconds in found.items():
                best[name] = min(best.get(name, seconds), seconds)
        count = MESSAGES // PASS * PASS
        for name, seconds in best.items():
            print(f"{name:28} {size:5} B  {seconds / count * 1e6:6.3f} us")


if __name__ == "__main__":
    main()
