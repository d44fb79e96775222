"""Workers that are killed or stand still under load: what their neighbours notice, and what not.

Numbered streams run between all workers all the time. A stream between two clients whose workers
live is whole; one whose end died is whole up to a point. After each death streams between all
workers flow again, the successor's included.
"""

import contextlib
import os
import random
import signal
import time
from itertools import count

import pytest

from tests.faults.conftest import Host
from tests.support.crowd import Crowd, Member, Streams, WorkerPids, is_listening, is_stopped
from tests.support.waiting import PATIENCE, WAIT_S, WaitedTooLong, wait_until

WORKERS = [2, 4]
SILENCE_S = 1.0
# What a worker's stop may cost its neighbours beyond the silence: the grace between abort and kill,
# and the machine's own slowness. With a server that waits for ever the gap has no end.
MARGIN_S = 4.0 * PATIENCE
UNSENT_MAX = 65_536
RESTART_S = 30.0 * PATIENCE


class Traffic:
    """Streams from every worker to every worker, and to a subscriber of everything on each."""

    def __init__(self, crowd: Crowd, rng: random.Random) -> None:
        self.crowd = crowd
        self.streams = Streams()
        self.publishers: dict[int, Member] = {}  # by worker
        self.subscribers: dict[int, Member] = {}
        self._stream_of: dict[Member, int] = {}
        self._numbers = count()
        self._rng = rng
        for worker in range(crowd.server.workers):
            self.enter(worker)
        crowd.settle()

    def enter(self, worker: int) -> None:
        """A new publisher and a new subscriber on this worker; earlier streams are not theirs."""
        publisher = self.crowd.join(worker)
        self.publishers[worker] = publisher
        self._stream_of[publisher] = next(self._numbers)
        subscriber = self.crowd.join(worker)
        self.streams.attach(subscriber)
        subscriber.subscribe(b"flow.>", b"1")
        self.crowd.settle([subscriber])
        for stream in self.streams.sent:
            self.streams.skip(subscriber, stream)
        self.subscribers[worker] = subscriber

    def feed(self) -> None:
        """Every publisher sends some more."""
        for publisher in self.publishers.values():
            if not publisher.is_ended and publisher.unsent_bytes < UNSENT_MAX:
                stream = self._stream_of[publisher]
                for _ in range(self._rng.randrange(1, 40)):
                    length = self._rng.choice((0, 20, 300, 12_000))
                    self.streams.publish(publisher, b"flow.%d" % stream, stream, length)

    def run_for(self, messages: int) -> None:
        """Keep everything flowing until so many more have arrived somewhere."""
        goal = self.streams.received + messages

        def has_flowed() -> bool:
            self.feed()
            return self.streams.received >= goal

        self.crowd.run_until(has_flowed, f"{messages} messages to arrive", 3 * WAIT_S)

    def assert_flows(self) -> None:
        """From every publisher of now something new reaches every subscriber of now."""
        streams = [self._stream_of[publisher] for publisher in self.publishers.values()]
        marks = {stream: self.streams.sent.get(stream, 0) for stream in streams}

        def is_past(subscriber: Member, stream: int) -> bool:
            return self.streams.seen.get((subscriber, stream), 0) > marks[stream]

        def flows() -> bool:
            self.feed()
            return all(
                is_past(subscriber, stream)
                for subscriber in self.subscribers.values()
                for stream in streams
            )

        self.crowd.run_until(flows, "messages between all workers", 3 * WAIT_S)

    def assert_whole(self) -> None:
        """Stop publishing; everything between those that live has arrived, once."""
        streams = [self._stream_of[publisher] for publisher in self.publishers.values()]
        subscribers = list(self.subscribers.values())
        for member in (*self.publishers.values(), *subscribers):
            assert not member.is_ended, f"a client of worker {member.worker}, which lives, was cut"

        def is_level() -> bool:
            return all(
                self.streams.is_level(subscriber, stream)
                for subscriber in subscribers
                for stream in streams
            )

        self.crowd.settle()
        with contextlib.suppress(WaitedTooLong):
            self.crowd.run_until(is_level, "the rest of every stream")
        self.streams.assert_level(subscribers, streams)


def kill_and_recover(traffic: Traffic, pids: WorkerPids, victims: list[int]) -> None:
    """Kill workers in the middle of the flow, check the others, and let the successors join."""
    dead = [
        members.pop(worker)
        for worker in victims
        for members in (traffic.publishers, traffic.subscribers)
    ]
    for worker in victims:
        os.kill(pids[worker], signal.SIGKILL)
    if traffic.publishers:
        traffic.run_for(200)

    def are_cut() -> bool:
        traffic.feed()
        return all(member.is_ended for member in dead)

    traffic.crowd.run_until(are_cut, "the clients of the dead workers to be cut off")
    if traffic.publishers:
        traffic.assert_whole()
    for worker in victims:
        pids.wait_replaced(worker, RESTART_S)
        traffic.enter(worker)
    traffic.assert_flows()


def run_kills(host: Host, workers: int, rng: random.Random, kills: int) -> None:
    crowd = host(workers)
    pids = WorkerPids(crowd.server)
    traffic = Traffic(crowd, rng)
    traffic.assert_flows()
    done = 0
    while done < kills:
        traffic.run_for(rng.randrange(1, 2000))
        victims = rng.sample(range(workers), 2 if workers > 2 and rng.random() < 0.3 else 1)
        kill_and_recover(traffic, pids, victims)
        done += len(victims)
    traffic.assert_whole()
    print(f"{done} workers killed, {traffic.streams.received} messages arrived")


@pytest.mark.parametrize("workers", WORKERS)
def test_killed_workers_take_only_their_own_clients_along(
    host: Host, workers: int, rng: random.Random
) -> None:
    run_kills(host, workers, rng, 10)


@pytest.mark.slow
@pytest.mark.parametrize("workers", WORKERS)
def test_fifty_killed_workers_take_only_their_own_clients_along(
    host: Host, workers: int, rng: random.Random
) -> None:
    run_kills(host, workers, rng, 50)


def test_the_only_worker_is_replaced_and_serves_again(host: Host, rng: random.Random) -> None:
    run_kills(host, 1, rng, 3)


@pytest.mark.parametrize("workers", WORKERS)
def test_large_messages_survive_the_death_of_another_consumer(
    host: Host, workers: int, rng: random.Random
) -> None:
    """Messages that go around the ring, and a ring that is full, when one of its readers dies."""
    crowd = host(workers, ring_size=65536)
    pids = WorkerPids(crowd.server)
    traffic = Traffic(crowd, rng)
    for _ in range(4):
        traffic.run_for(rng.randrange(1, 500))
        kill_and_recover(traffic, pids, [rng.randrange(workers)])
    traffic.assert_whole()


@pytest.mark.parametrize("workers", WORKERS)
def test_the_interest_of_a_dead_worker_is_withdrawn(host: Host, workers: int) -> None:
    crowd = host(workers)
    pids = WorkerPids(crowd.server)
    victim = workers - 1
    responder = crowd.join(victim)

    def answer(subject: bytes, sid: bytes, reply: bytes, payload: bytes) -> None:
        responder.publish(reply, b"here")

    responder.on_message = answer
    for number, subject in enumerate((b"svc.plain", b"svc.wild.*", b"svc.group")):
        queue = b"group" if subject == b"svc.group" else b""
        responder.subscribe(subject, b"%d" % number, queue)
    subjects = (b"svc.plain", b"svc.wild.a", b"svc.group")
    askers = [crowd.join(w, headers=True, no_responders=True) for w in range(workers - 1)]
    answers: dict[tuple[Member, bytes], bytes] = {}
    for asker in askers:
        listen(asker, answers)
        asker.subscribe(b"inbox.>", b"1")
    crowd.settle()

    def ask() -> None:
        for asker in askers:
            for subject in subjects:
                asker.publish(subject, b"", b"inbox." + subject)
        crowd.settle(askers)

    ask()
    crowd.run_until(
        lambda: len(answers) == len(askers) * 3 and set(answers.values()) == {b"here"},
        "an answer to everybody from the worker that will die",
    )
    answers.clear()
    os.kill(pids[victim], signal.SIGKILL)

    def are_told() -> bool:
        ask()
        told = [value for value in answers.values() if value.startswith(b"NATS/1.0 503")]
        return len(told) == len(askers) * 3

    crowd.run_until(are_told, "a 503 for every subject")
    answers.clear()
    pids.wait_replaced(victim, RESTART_S)
    ask()
    assert len(answers) == len(askers) * 3, "a successor inherited interest"
    assert all(value.startswith(b"NATS/1.0 503") for value in answers.values())


def listen(asker: Member, answers: dict[tuple[Member, bytes], bytes]) -> None:
    """Keep the latest answer for each inbox; every worker's asker has the same inboxes."""

    def take(subject: bytes, sid: bytes, reply: bytes, payload: bytes) -> None:
        answers[asker, subject] = payload

    asker.on_message = take


@pytest.mark.parametrize("workers", WORKERS)
def test_a_successor_knows_all_interest_before_it_serves(host: Host, workers: int) -> None:
    """Interest in many parts: whoever connects to the successor reaches every subscriber."""
    crowd = host(workers)
    pids = WorkerPids(crowd.server)
    subjects = 10_000
    subscriber = crowd.join(0)
    got: list[bytes] = []
    subscriber.on_message = lambda subject, sid, reply, payload: got.append(payload)
    subscriber.send(b"".join(b"SUB known.%d %d\r\n" % (i, i) for i in range(subjects)))
    crowd.settle()
    texts = [b"%d" % i for i in range(subjects)]
    for worker in range(1, workers):
        os.kill(pids[worker], signal.SIGKILL)
        # The supervisor keeps the listening socket: this is served as soon as the successor is.
        publisher = crowd.join(worker)
        got.clear()
        publisher.send(b"".join(b"PUB known.%b %d\r\n%b\r\n" % (t, len(t), t) for t in texts))
        crowd.run_until(
            lambda: len(got) >= subjects, "every message of the successor's client", 3 * WAIT_S
        )
        assert got == texts
    crowd.settle()
    assert got == texts


# --- a worker that stands still -------------------------------------------------------------------


@pytest.mark.parametrize("workers", WORKERS)
def test_a_worker_that_stands_still_holds_the_others_up_for_the_silence_at_most(
    host: Host, workers: int, rng: random.Random
) -> None:
    crowd = host(workers, heartbeat_silence=f"{SILENCE_S:g}s")
    pids = WorkerPids(crowd.server)
    traffic = Traffic(crowd, rng)
    traffic.assert_flows()
    victim = workers - 1
    dead = [traffic.publishers.pop(victim), traffic.subscribers.pop(victim)]
    gap_s = last_s = 0.0
    received = traffic.streams.received

    def is_replaced() -> bool:
        """The flow among the others goes on all the while; note its longest pause."""
        nonlocal gap_s, last_s, received
        traffic.feed()
        now_s = time.monotonic()
        if traffic.streams.received > received:
            gap_s = max(gap_s, now_s - last_s)
            received, last_s = traffic.streams.received, now_s
        return all(member.is_ended for member in dead)

    last_s = time.monotonic()
    os.kill(pids[victim], signal.SIGSTOP)
    wait_until(lambda: is_stopped(pids[victim]), "the worker to stand still")
    crowd.run_until(is_replaced, "the worker that stands still to be ended", 3 * WAIT_S)
    print(f"longest pause among the others: {gap_s:.2f} s")
    assert gap_s < SILENCE_S + MARGIN_S
    traffic.assert_whole()
    pids.wait_replaced(victim, RESTART_S)
    traffic.enter(victim)
    traffic.assert_flows()
    traffic.assert_whole()


@pytest.mark.parametrize("workers", WORKERS)
def test_interest_of_others_waits_for_a_worker_that_stands_still_only_until_it_is_ended(
    host: Host, workers: int
) -> None:
    """The PONG after a SUB needs every worker that lives; without the supervisor it never came."""
    crowd = host(workers, heartbeat_silence=f"{SILENCE_S:g}s")
    pids = WorkerPids(crowd.server)
    subscriber = crowd.join(0)
    victim = workers - 1
    publishers = [crowd.join(worker) for worker in range(victim)]
    got: list[bytes] = []
    subscriber.on_message = lambda subject, sid, reply, payload: got.append(payload)
    os.kill(pids[victim], signal.SIGSTOP)
    wait_until(lambda: is_stopped(pids[victim]), "the worker to stand still")
    subscriber.subscribe(b"late", b"1")
    crowd.settle([subscriber])
    for number, publisher in enumerate(publishers):
        publisher.publish(b"late", b"%d" % number)
    wanted = [b"%d" % number for number in range(len(publishers))]
    crowd.run_until(lambda: sorted(got) == wanted, "a message of every publisher")
    pids.wait_replaced(victim, RESTART_S)
    successor = crowd.join(victim)
    successor.publish(b"late", b"successor")
    crowd.run_until(lambda: got[-1] == b"successor", "the message of the successor's client")


@pytest.mark.parametrize("workers", WORKERS)
def test_a_worker_that_paused_and_went_on_lost_nothing(
    host: Host, workers: int, rng: random.Random
) -> None:
    """Its neighbours' rings run full meanwhile; all of it arrives in order afterwards."""
    crowd = host(workers, heartbeat_silence="60s", ring_size=65536)
    pids = WorkerPids(crowd.server)
    traffic = Traffic(crowd, rng)
    for _ in range(3):
        victim = rng.randrange(workers)
        traffic.run_for(rng.randrange(1, 500))
        os.kill(pids[victim], signal.SIGSTOP)
        try:
            wait_until(lambda: is_stopped(pids[victim]), "the worker to stand still")  # noqa: B023
            crowd.run_until(
                lambda: is_held_back(traffic), "every publisher to be held back", 3 * WAIT_S
            )
        finally:
            os.kill(pids[victim], signal.SIGCONT)
        traffic.assert_flows()
    traffic.assert_whole()


def is_held_back(traffic: Traffic) -> bool:
    """Whether no publisher can send any more: all of them write into full rings."""
    for _ in range(20):
        traffic.feed()
    return all(p.unsent_bytes >= UNSENT_MAX for p in traffic.publishers.values())


# --- the supervisor -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "workers", [2, *(pytest.param(each, marks=pytest.mark.slow) for each in (1, 4))]
)
def test_a_killed_supervisor_takes_all_workers_along_and_frees_the_port(
    host: Host, workers: int, rng: random.Random
) -> None:
    crowd = host(workers)
    server = crowd.server
    traffic = Traffic(crowd, rng)
    traffic.run_for(500)
    address, port = server.host, server.port
    members = list(crowd.members)
    server.kill()  # fails if a process is left
    crowd.run_until(lambda: all(m.is_ended for m in members), "every client to be cut off")
    assert not is_listening(address, port)
    again = host(workers, port=port)
    assert again.server.port == port
    Traffic(again, rng).assert_flows()


@pytest.mark.parametrize("workers", [1, *WORKERS])
def test_a_terminated_server_says_goodbye_to_its_clients_and_returns_zero(
    host: Host, workers: int, rng: random.Random
) -> None:
    crowd = host(workers)
    traffic = Traffic(crowd, rng)
    traffic.run_for(500)
    idle = crowd.join_each()
    os.kill(crowd.server.pid, signal.SIGTERM)

    def are_cut() -> bool:
        return all(member.is_ended for member in crowd.members)

    crowd.run_until(are_cut, "the end of every connection")
    assert not any(member.errors for member in idle)
    wait_until(lambda: not crowd.server.is_alive(), "the server to end")
    assert crowd.server.stop() == 0
