"""Clients that do not do their part, next to clients that do.

The neighbour sits on another worker than the one it hurts: what one connection does wrong is paid
for by itself, by its publisher for as long as nats-server would have it pay, and by nobody else.
"""

import os
import random
import signal
from collections.abc import Callable

import pytest

from tests.faults.conftest import Host
from tests.support.crowd import Crowd, Member, Streams, WorkerPids
from tests.support.waiting import WAIT_S
from tests.support.wireclient import WireClient

WORKERS = [1, 2, 4]
UNSENT_MAX = 262_144
HELD_BACK_BYTES = 50_000_000  # a little more than three quarters of what may be pending


class Pair:
    """A publisher and a subscriber that keep each other busy, a few messages at a time."""

    def __init__(self, crowd: Crowd, first: int, second: int, name: int) -> None:
        self.got = 0
        self._streams = Streams()
        self._name = name
        self._subject = b"pair.%d" % name
        self._publisher = crowd.join(first)
        self._subscriber = crowd.join(second)
        self._subscriber.on_message = self._take
        self._subscriber.subscribe(self._subject, b"1")
        crowd.settle([self._subscriber])
        for _ in range(8):
            self._publish()

    @property
    def is_alive(self) -> bool:
        return not self._publisher.is_ended and not self._subscriber.is_ended

    def _publish(self) -> None:
        self._streams.publish(self._publisher, self._subject, self._name, 100)

    def _take(self, subject: bytes, sid: bytes, reply: bytes, payload: bytes) -> None:
        self._streams.check(self._subscriber, payload)
        self.got += 1
        self._publish()


def far_pairs(crowd: Crowd) -> list[Pair]:
    """One pair from each worker to the next one, and one that stays at home."""
    workers = crowd.server.workers
    pairs = [Pair(crowd, worker, (worker + 1) % workers, worker) for worker in range(workers)]
    return [*pairs, Pair(crowd, workers - 1, workers - 1, workers)]


def assert_all_go_on(crowd: Crowd, pairs: list[Pair]) -> None:
    """Each pair exchanges a hundred messages more."""
    goals = [(pair, pair.got + 100) for pair in pairs]
    crowd.run_until(lambda: all(pair.got >= goal for pair, goal in goals), "every pair to go on")
    assert all(pair.is_alive for pair in pairs)


# --- subscribers that are slow --------------------------------------------------------------------


@pytest.mark.parametrize("length", [100, 50_000], ids=["small", "oversize"])
@pytest.mark.parametrize("workers", WORKERS)
def test_a_subscriber_that_never_reads_is_cut_off_and_its_neighbours_go_on(
    host: Host, workers: int, length: int
) -> None:
    crowd = host(workers, max_payload="1MB", max_pending="4MB", ring_size=262144)
    pairs = far_pairs(crowd)
    deaf = crowd.join(workers - 1, receive_bytes=4096)
    deaf.subscribe(b"loud", b"1")
    crowd.settle([deaf])
    deaf.pause()
    publisher = crowd.join(0)
    line = b"PUB loud %d\r\n%b\r\n" % (length, b"x" * length)
    lines = line * (65_536 // len(line) + 1)

    def is_cut() -> bool:
        if publisher.unsent_bytes < UNSENT_MAX:
            publisher.send(lines)
        return "Slow Consumer Detected: MaxPending" in crowd.server.log_text()

    crowd.run_until(is_cut, "the deaf subscriber to be cut off", 3 * WAIT_S)
    crowd.run_until(
        lambda: not crowd.server.holds_connection_from(deaf.local_port), "the end of its connection"
    )
    assert_all_go_on(crowd, pairs)
    assert not publisher.is_ended
    crowd.run_until(lambda: publisher.unsent_bytes == 0, "the publisher to be read again")
    crowd.settle([publisher])


@pytest.mark.parametrize(
    "workers", [2, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 4))]
)
def test_a_fast_publisher_is_held_back_for_a_reader_that_is_only_slower(
    host: Host, workers: int
) -> None:
    """Nobody is cut off, nothing is lost. A quarter of the limit is left for what is under way
    between two workers when the reader's one asks the publisher's one to hold it back."""
    crowd = host(workers)
    pairs = far_pairs(crowd)
    reader = crowd.join(workers - 1, receive_bytes=65_536)
    publisher = crowd.join(0)
    # When this process stands still, little is on its way that would go on piling up.
    publisher.limit_unsent(UNSENT_MAX)
    streams = Streams()
    streams.attach(reader)
    reader.subscribe(b"fast", b"1")
    crowd.settle()
    messages = 150_000  # of 1,000 bytes: more than twice what may be pending

    def feed() -> bool:
        assert not reader.is_ended, "the reader was cut off:\n" + crowd.server.log_text()
        # As slow as it likes until the server holds the publisher back; then it has to keep up with
        # what is let through, and on a busy machine each of its turns has to count.
        behind = publisher.sent_bytes - streams.received * 1000
        reader.read_bytes = 32_768 if behind < HELD_BACK_BYTES else 131_072
        while streams.sent.get(0, 0) < messages and publisher.unsent_bytes < UNSENT_MAX:
            streams.publish(publisher, b"fast", 0, 1000)
        return streams.received == messages

    crowd.run_until(feed, "every message at the reader", 6 * WAIT_S)
    streams.assert_level([reader], [0])
    assert_all_go_on(crowd, pairs)


@pytest.mark.parametrize("workers", [2, 4])
def test_a_reader_whose_worker_paused_is_not_cut_off_for_what_piled_up(
    host: Host, workers: int, rng: random.Random
) -> None:
    """What is under way between workers, and a client's own limit, leave room for each other."""
    crowd = host(workers, heartbeat_silence="60s")
    pids = WorkerPids(crowd.server)
    reader = crowd.join(workers - 1)
    publisher = crowd.join(0)
    streams = Streams()
    streams.attach(reader)
    reader.subscribe(b"piled", b"1")
    crowd.settle()
    lengths: list[Callable[[], int]] = [
        lambda: 1000,
        lambda: 900_000,
        lambda: rng.choice((100, 900_000)),
    ]
    for length in lengths:
        idle_steps = 0
        os.kill(pids[workers - 1], signal.SIGSTOP)
        try:

            def is_held_back() -> bool:
                """Nothing has been taken from the publisher in so many steps."""
                nonlocal idle_steps
                while publisher.unsent_bytes < UNSENT_MAX:
                    streams.publish(publisher, b"piled", 0, length())  # noqa: B023
                before = publisher.sent_bytes
                crowd.step()
                idle_steps = idle_steps + 1 if publisher.sent_bytes == before else 0
                return idle_steps == 10

            crowd.run_until(is_held_back, "the publisher to be held back", 3 * WAIT_S)
        finally:
            os.kill(pids[workers - 1], signal.SIGCONT)

        def has_all() -> bool:
            assert not reader.is_ended, "the reader was cut off:\n" + crowd.server.log_text()
            return streams.is_level(reader, 0)

        crowd.run_until(has_all, "every message at the reader", 3 * WAIT_S)


# --- clients that say nothing, or too much --------------------------------------------------------


def hold_silent(host: Host, workers: int, silent_count: int) -> None:
    crowd = host(workers)
    silent = []
    try:
        pairs = far_pairs(crowd)
        for _ in range(silent_count):
            silent.append(WireClient(crowd.server.host, crowd.server.port))
        assert len({client.info["client_id"] for client in silent}) == silent_count
        assert_all_go_on(crowd, pairs)
        # One that has said nothing for so long is still welcome.
        silent[0].connect()
        silent[-1].connect()
        assert_all_go_on(crowd, pairs)
    finally:
        for client in silent:
            client.close()
    assert_all_go_on(crowd, pairs)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_thousand_clients_that_say_nothing_do_no_harm(host: Host, workers: int) -> None:
    hold_silent(host, workers, 1000)


@pytest.mark.slow
@pytest.mark.parametrize("workers", WORKERS)
def test_ten_thousand_clients_that_say_nothing_do_no_harm(host: Host, workers: int) -> None:
    hold_silent(host, workers, 10_000)


@pytest.mark.parametrize("workers", WORKERS)
def test_clients_that_come_and_go_with_subscriptions_do_no_harm(
    host: Host, workers: int, rng: random.Random
) -> None:
    """Some leave in the middle of a line, some with unread messages, some by a reset."""
    crowd = host(workers)
    pairs = far_pairs(crowd)
    noise: list[Member] = []

    def ignore(subject: bytes, sid: bytes, reply: bytes, payload: bytes) -> None:
        """What a visitor gets is of no interest."""

    for number in range(300):
        visitor = crowd.join()
        visitor.on_message = ignore
        for sid in range(rng.randrange(20)):
            subject = rng.choice((b"pair.>", b"pair.0", b"visit.%d" % number, b"*.0"))
            visitor.subscribe(subject, b"%d" % sid, rng.choice((b"", b"group")))
        visitor.send(rng.choice((b"", b"PUB pair.x 5\r\nab", b"PING\r\n", b"SU", b"+OK\r\n")))
        noise.append(visitor)
        if len(noise) > 10:
            noise.pop(rng.randrange(len(noise))).leave()
        crowd.step(0)
    for visitor in noise:
        visitor.leave()
    assert_all_go_on(crowd, pairs)
