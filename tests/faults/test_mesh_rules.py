"""The rules between workers that hold while nobody dies, each with real processes.

Visibility, causality, order, queue groups; and in all of them that nothing comes twice. One worker
is the case without a mesh, which must look the same to a client.
"""

import math
import os
import random
import signal
from collections import Counter
from collections.abc import Callable

import pytest

from shardd import limits
from tests.faults.conftest import Host
from tests.support.crowd import Crowd, Member, Streams, WorkerPids
from tests.support.waiting import PATIENCE, WAIT_S

WORKERS = [1, 2, 4]
ROUNDS = 2000
REQUESTS = 10_000
GROUP_MESSAGES = 20_000
P_MIN = 1e-6
LARGE_BYTES = 1_000_000


# --- 1. visibility --------------------------------------------------------------------------------


class Visible:
    """One subscriber that subscribes, waits for the answer, and must then get a message of
    every publisher; round after round, on new and on old subjects, plain and with wildcards."""

    def __init__(
        self, subscriber: Member, publishers: list[Member], name: bytes, rounds: int, verbose: bool
    ) -> None:
        self.rounds_left = rounds
        self._member = subscriber
        self._publishers = publishers
        self._name = name
        self._verbose = verbose
        self._missing: set[bytes] = set()
        self._round = 0
        subscriber.on_message = self._on_message
        if verbose:
            subscriber.on_ok = self._on_answer
        else:
            subscriber.on_pong = self._on_answer
        self._answers_to_skip = 0
        self._subscribe()

    @property
    def text(self) -> str:
        return f"{self._name!r} in round {self._round} lacks {self._missing}"

    def _subscribe(self) -> None:
        self._round += 1
        subject = b"see.%b.%d" % (self._name, self._round % 5 if self._round % 2 else self._round)
        pattern = subject if self._round % 3 else b"see.%b.*" % self._name
        self._subject = subject
        self._missing = {
            b"%d %d" % (self._round, number) for number in range(len(self._publishers))
        }
        self._member.subscribe(pattern, b"%d" % self._round)
        if not self._verbose:
            self._member.send(b"PING\r\n")

    def _on_answer(self) -> None:
        if self._answers_to_skip:
            self._answers_to_skip -= 1
            return
        for number, publisher in enumerate(self._publishers):
            publisher.publish(self._subject, b"%d %d" % (self._round, number))

    def _on_message(self, subject: bytes, sid: bytes, reply: bytes, payload: bytes) -> None:
        assert sid == b"%d" % self._round, f"a message for {sid!r} in round {self._round}"
        assert payload in self._missing, f"{payload!r} is not one of {self._missing}, or came twice"
        self._missing.remove(payload)
        if self._missing:
            return
        self._member.unsubscribe(sid)
        if self._verbose:
            self._answers_to_skip = 1
        self.rounds_left -= 1
        if self.rounds_left:
            self._subscribe()


@pytest.mark.parametrize("verbose", [False, True], ids=["pong", "ok"])
@pytest.mark.parametrize("workers", WORKERS)
def test_what_is_published_after_the_answer_to_a_subscriber_reaches_it(
    host: Host, workers: int, verbose: bool
) -> None:
    crowd = host(workers)
    publishers = crowd.join_each()
    per_worker = 2
    rounds = [
        Visible(
            crowd.join(worker, verbose=verbose),
            publishers,
            b"%d-%d" % (worker, number),
            ROUNDS // (workers * per_worker),
            verbose,
        )
        for worker in range(workers)
        for number in range(per_worker)
    ]
    crowd.run_until(
        lambda: not any(each.rounds_left for each in rounds),
        "every round to end",
        6 * WAIT_S,
    )
    crowd.settle()  # nothing comes late: a double would fail in its subscriber


@pytest.mark.parametrize("workers", WORKERS)
def test_a_subscriber_among_thousands_of_changes_of_interest_is_visible(
    host: Host, workers: int
) -> None:
    """The answer waits for this client's interest while every worker announces its own."""
    crowd = host(workers)
    publishers = crowd.join_each()
    noise = crowd.join_each()
    visible = [
        Visible(crowd.join(worker), publishers, b"%d" % worker, 100, False)
        for worker in range(workers)
    ]
    sid = 0

    def make_noise() -> bool:
        nonlocal sid
        for member in noise:
            if member.unsent_bytes == 0:
                lines = [
                    b"SUB noise.%d.%d %d\r\nUNSUB %d\r\n" % (member.worker, i, i, i - 20)
                    for i in range(sid, sid + 40)
                ]
                member.send(b"".join(lines))
        sid += 40
        return not any(each.rounds_left for each in visible)

    crowd.run_until(make_noise, "every round to end", 6 * WAIT_S)
    crowd.settle()


# --- 2. causality ---------------------------------------------------------------------------------


class Requester:
    """Sends requests whose inbox is made in the same segment, many at a time."""

    def __init__(self, member: Member, service: bytes, requests: int, window: int) -> None:
        self._member = member
        self._service = service
        self._next = 0
        self._requests = requests
        self._name = b"%d.%d" % (member.worker, member.local_port)
        self.pending: set[bytes] = set()
        member.on_message = self._on_reply
        for _ in range(window):
            self._ask()

    @property
    def is_done(self) -> bool:
        return self._next == self._requests and not self.pending

    def _ask(self) -> None:
        if self._next == self._requests:
            return
        number = b"%d" % self._next
        self._next += 1
        self.pending.add(number)
        inbox = b"inbox.%b.%b" % (self._name, number)
        self._member.send(
            b"SUB %b %b\r\nPUB %b %b %d\r\n%b\r\n"
            % (inbox, number, self._service, inbox, len(number), number)
        )

    def _on_reply(self, subject: bytes, sid: bytes, reply: bytes, payload: bytes) -> None:
        assert payload == sid, f"the reply {payload!r} came to {sid!r}"
        assert payload in self.pending, f"reply {payload!r} came twice"
        self.pending.remove(payload)
        self._member.unsubscribe(sid)
        self._ask()


def respond(member: Member) -> None:
    """Send every request back."""

    def answer(subject: bytes, sid: bytes, reply: bytes, payload: bytes) -> None:
        member.publish(reply, payload)

    member.on_message = answer


@pytest.mark.parametrize("workers", WORKERS)
def test_a_request_in_one_segment_with_the_subscription_of_its_inbox_is_answered(
    host: Host, workers: int
) -> None:
    crowd = host(workers)
    responders = crowd.join_each()
    for responder in responders:
        respond(responder)
        responder.subscribe(b"service.%d" % responder.worker, b"1")
    crowd.settle()
    pairs = [(a, b) for a in range(workers) for b in range(workers) if a != b] or [(0, 0)]
    requesters = [
        Requester(crowd.join(a), b"service.%d" % b, REQUESTS // len(pairs), window=32)
        for a, b in pairs
    ]
    crowd.run_until(
        lambda: all(requester.is_done for requester in requesters),
        "a reply to every request",
        6 * WAIT_S,
    )
    crowd.settle()


@pytest.mark.parametrize("workers", WORKERS)
def test_the_first_message_after_a_subscription_in_one_segment_is_for_it(
    host: Host, workers: int
) -> None:
    """Nothing but order in the segment makes the subscriber visible to its own worker."""
    crowd = host(workers)
    member = crowd.join()
    got: list[bytes] = []
    member.on_message = lambda subject, sid, reply, payload: got.append(payload)
    for number in range(1000):
        text = b"%d" % number
        member.send(
            b"SUB own.%b %b\r\nPUB own.%b %d\r\n%b\r\n" % (text, text, text, len(text), text)
        )
    crowd.settle()
    assert got == [b"%d" % number for number in range(1000)]


# --- 3. order -------------------------------------------------------------------------------------


def run_streams(
    crowd: Crowd,
    publishers: list[Member],
    subscribers: list[Member],
    lengths: Callable[[], int],
    messages: int,
    unsent_max: int,
    subject: bytes = b"order.a",
) -> Streams:
    """Every publisher is one stream; all of them go to every subscriber, at full speed."""
    streams = Streams()
    for subscriber in subscribers:
        streams.attach(subscriber)
        subscriber.subscribe(subject, b"1")
    crowd.settle()
    total = messages * len(publishers) * len(subscribers)

    def feed() -> bool:
        for number, publisher in enumerate(publishers):
            while streams.sent.get(number, 0) < messages and publisher.unsent_bytes < unsent_max:
                streams.publish(publisher, subject, number, lengths())
        assert not any(m.is_ended for m in crowd.members), crowd.server.log_text()
        return streams.received == total

    crowd.run_until(feed, "every message at every subscriber", 6 * WAIT_S)
    crowd.settle()
    streams.assert_level(subscribers, range(len(publishers)))
    return streams


@pytest.mark.parametrize("workers", WORKERS)
def test_small_and_oversize_messages_keep_their_order(
    host: Host, workers: int, rng: random.Random
) -> None:
    """A small ring: bursts are far larger than it, and all above 8 KiB goes around it."""
    crowd = host(workers, ring_size=65536, max_pending="1GB")
    publishers = crowd.join_each()
    subscribers = [*crowd.join_each(), crowd.join()]
    sizes = [0, 16, 200, 4000, 8000, 8100, 8192, 9000, 20_000]

    def length() -> int:
        return rng.choice(sizes) + rng.randrange(64)

    run_streams(crowd, publishers, subscribers, length, 3000 // workers, 1 << 20)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_burst_larger_than_the_ring_arrives_whole_and_in_order(host: Host, workers: int) -> None:
    crowd = host(workers, ring_size=65536, max_pending="1GB")
    publishers = crowd.join_each()
    subscribers = crowd.join_each()
    run_streams(crowd, publishers, subscribers, lambda: 100, 60_000 // workers**2, 4 << 20)


@pytest.mark.parametrize("workers", WORKERS)
def test_messages_around_the_size_that_a_default_ring_refuses_keep_their_order(
    host: Host, workers: int, rng: random.Random
) -> None:
    crowd = host(workers, max_pending="1GB")  # this is not about slow consumers
    publisher = crowd.join(0)
    subscribers = crowd.join_each()

    def length() -> int:
        return rng.choice((10, 1000, 500_000, 600_000, 1_000_000)) + rng.randrange(1000)

    run_streams(crowd, [publisher], subscribers, length, 240 // workers, 2 << 20)


@pytest.mark.parametrize("workers", [2, 4])
def test_oversize_messages_beyond_their_bound_hold_the_publisher_back_and_none_is_lost(
    host: Host, workers: int
) -> None:
    """The subscriber's worker stands still until its share of oversize messages is under way."""
    crowd = host(workers, heartbeat_silence="60s", max_pending="1GB")
    publisher = crowd.join(0)
    subscriber = crowd.join(workers - 1)
    streams = Streams()
    streams.attach(subscriber)
    subscriber.subscribe(b"large", b"1")
    crowd.settle()
    pid = WorkerPids(crowd.server)[workers - 1]
    messages = limits.OVERSIZE_BYTES_MAX // LARGE_BYTES + 20
    os.kill(pid, signal.SIGSTOP)
    try:

        def feed() -> bool:
            if streams.sent.get(0, 0) < messages and publisher.unsent_bytes < LARGE_BYTES:
                streams.publish(publisher, b"large", 0, LARGE_BYTES)
            return publisher.sent_bytes > limits.OVERSIZE_BYTES_MAX + LARGE_BYTES

        crowd.run_until(feed, "the publisher to run into the bound", 3 * WAIT_S)
    finally:
        os.kill(pid, signal.SIGCONT)
    crowd.run_until(lambda: feed() and streams.received == messages, "every message", 3 * WAIT_S)


# --- 4. queue groups ------------------------------------------------------------------------------


def chance_of(chi_square: float, degrees: int) -> float:
    """How likely chance alone deviates as far as this (the upper tail of chi-square)."""
    half = chi_square / 2
    if degrees % 2 == 0:
        term, total, first = math.exp(-half), math.exp(-half), 1.0
    else:
        total = math.erfc(math.sqrt(half))
        term, first = 2 * math.exp(-half) * math.sqrt(half / math.pi), 1.5
        if degrees > 1:
            total += term
    steps = (degrees - 2) // 2 if degrees % 2 == 0 else (degrees - 3) // 2
    for step in range(steps):
        term *= half / (first + step)
        total += term
    return total


def test_the_tail_of_chi_square_is_computed_right() -> None:
    """Values from printed tables: the 5 % and 0.1 % points."""
    for degrees, at_5_percent, at_01_percent in (
        (1, 3.841, 10.828),
        (2, 5.991, 13.816),
        (3, 7.815, 16.266),
        (5, 11.070, 20.515),
        (8, 15.507, 26.124),
        (15, 24.996, 37.697),
    ):
        assert chance_of(at_5_percent, degrees) == pytest.approx(0.05, rel=1e-3)
        assert chance_of(at_01_percent, degrees) == pytest.approx(0.001, rel=1e-2)


class Group:
    """Members of one queue group and what each of them got."""

    def __init__(self) -> None:
        self.counts: Counter[Member] = Counter()
        self.seen: set[bytes] = set()

    def add(self, member: Member, subject: bytes, sid: bytes = b"1") -> None:
        def take(_: bytes, sid: bytes, reply: bytes, payload: bytes) -> None:
            assert payload not in self.seen, f"{payload!r} came to two members or twice"
            self.seen.add(payload)
            self.counts[member] += 1

        member.on_message = take
        member.subscribe(subject, sid, b"group")


@pytest.mark.parametrize(
    "spread",
    [[6], [1, 5], [5, 1], [3, 0], [0, 3], [1, 5, 5, 5], [1, 0, 0, 5], [0, 2, 1, 3]],
    ids=lambda spread: "-".join(map(str, spread)),
)
def test_each_member_of_a_group_is_equally_likely_wherever_it_is(
    host: Host, spread: list[int]
) -> None:
    crowd = host(len(spread))
    group = Group()
    members = [crowd.join(worker) for worker, count in enumerate(spread) for _ in range(count)]
    for member in members:
        group.add(member, b"work")
    crowd.settle()
    publishers = crowd.join_each()
    lines = [b"PUB work %d\r\n%d\r\n" % (len(str(n)), n) for n in range(GROUP_MESSAGES)]
    for number, publisher in enumerate(publishers):
        publisher.send(b"".join(lines[number :: len(publishers)]))
    crowd.run_until(
        lambda: len(group.seen) == GROUP_MESSAGES, "every message at one member", 6 * WAIT_S
    )
    crowd.settle()
    counts = [group.counts[member] for member in members]
    mean = GROUP_MESSAGES / len(members)
    chi_square = sum((count - mean) ** 2 / mean for count in counts)
    chance = chance_of(chi_square, len(members) - 1)
    print(f"members on workers {[m.worker for m in members]} got {counts}, p = {chance:.3g}")
    assert chance > P_MIN


@pytest.mark.parametrize("workers", WORKERS)
def test_messages_chosen_for_members_that_leave_go_to_one_that_stays(
    host: Host, workers: int, rng: random.Random
) -> None:
    """One member stays all the time; the others come and go in the middle of the flow."""
    crowd = host(workers)
    group = Group()
    steady = crowd.join(0)
    group.add(steady, b"work", b"0")
    fickle = crowd.join_each() + crowd.join_each()
    sids = dict.fromkeys(fickle, 0)
    for member in fickle:
        group.add(member, b"work", b"0")
    crowd.settle()
    publishers = crowd.join_each()
    published = 0

    def feed() -> bool:
        nonlocal published
        for publisher in publishers:
            if published < GROUP_MESSAGES and publisher.unsent_bytes < 10_000:
                count = min(rng.randrange(1, 50), GROUP_MESSAGES - published)
                publisher.send(
                    b"".join(
                        b"PUB work %d\r\n%d\r\n" % (len(str(n)), n)
                        for n in range(published, published + count)
                    )
                )
                published += count
        member = rng.choice(fickle)
        sid = sids[member]
        sids[member] = sid + 1
        if sid % 2 == 0:
            member.unsubscribe(b"%d" % sid)
        else:
            member.subscribe(b"work", b"%d" % (sid + 1), b"group")
        return len(group.seen) == GROUP_MESSAGES

    crowd.run_until(feed, "every message at one member", 6 * WAIT_S * PATIENCE)
    crowd.settle()
    assert len(group.seen) == GROUP_MESSAGES
    print(f"the steady member got {group.counts[steady]}, the others {group.counts.total()}")


@pytest.mark.parametrize("workers", WORKERS)
def test_a_group_whose_last_member_leaves_gets_nothing_and_its_requester_is_told(
    host: Host, workers: int
) -> None:
    crowd = host(workers)
    member = crowd.join(workers - 1)
    respond(member)
    asker = crowd.join(0, headers=True, no_responders=True)
    answers: list[bytes] = []
    asker.on_message = lambda subject, sid, reply, payload: answers.append(payload)
    asker.subscribe(b"inbox", b"1")
    member.subscribe(b"help", b"1", b"group")
    crowd.settle()
    asker.publish(b"help", b"first", b"inbox")
    crowd.run_until(lambda: answers == [b"first"], "the answer of the member")
    member.unsubscribe(b"1")
    crowd.settle([member])

    def is_told() -> bool:
        """A withdrawal is not waited for: questions on their way to the member get no answer."""
        asker.publish(b"help", b"again", b"inbox")
        crowd.settle([asker])
        return answers[-1].startswith(b"NATS/1.0 503")

    crowd.run_until(is_told, "the news that nobody is there")
