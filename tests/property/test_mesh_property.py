"""The mesh against a model of one single server: any number of members, any schedule.

Members live in one process (`tests.support.mesh_host`). The rules are what clients and the
supervisor do, and every step of the machinery by itself: a pass, one control message, one part of
a snapshot. So interest overtakes messages and the other way round, rings fill up, and processes die
with half of their work done. The model judges each delivery; after the schedule has come to rest it
says what is missing, and probes show that every member's interest is the truth.
"""

import sys

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from shardd.router import mesh
from tests.support.mesh_host import Client, Host, Member
from tests.support.server_model import Subscribed

SUBJECTS = [b"a.b", b"c"]
PATTERNS = [b"a.b", b"a.b", b"c", b"a.*", b">"]
SERVICE = b"service"
SMALL, LARGE, OVERSIZE = 10, 6_000, 9_000
FILL = 14  # large messages that are more than a ring holds

choices = st.integers(0, 1 << 16)
subjects = st.sampled_from(SUBJECTS)
patterns = st.sampled_from(PATTERNS)
queues = st.sampled_from([None, None, b"q", b"q", b"r"])
lengths = st.sampled_from([SMALL, SMALL, SMALL, LARGE, OVERSIZE])


class MeshMachine(RuleBasedStateMachine):
    """One host, its model, and a schedule."""

    @initialize(count=st.integers(2, 4), is_settled=st.sampled_from([True, True, False]))
    def boot(self, count: int, is_settled: bool) -> None:
        self.host = Host(count)
        self.count = count
        for slot in range(count):
            self.host.start(slot)
        if is_settled:
            self.host.settle()

    def member(self, choice: int) -> Member:
        return self.host.members[sorted(self.host.members)[choice % len(self.host.members)]]

    def client(self, choice: int) -> Client | None:
        """A client of a member that accepts clients."""
        accepting = [one for one in self.host.members.values() if one.is_accepting]
        return accepting[choice % len(accepting)].clients[choice >> 8 & 1] if accepting else None

    def subscription(self, choice: int) -> Subscribed | None:
        live = self.host.model.live
        return live[choice % len(live)] if live else None

    # --- clients -------------------------------------------------------------------------------

    @rule(choice=choices, pattern=patterns, queue=queues, is_last=st.booleans())
    def subscribe(self, choice: int, pattern: bytes, queue: bytes | None, is_last: bool) -> None:
        client = self.client(choice)
        if client is not None:
            client.subscribe(pattern, queue)
            client.ping()
            if is_last:
                client.member.finish()

    @rule(choice=choices, deliveries_max=st.integers(0, 3))
    def unsubscribe(self, choice: int, deliveries_max: int) -> None:
        one = self.subscription(choice)
        if one is not None:
            assert isinstance(one.client, Client)
            one.client.unsubscribe(one, deliveries_max)

    @rule(
        choice=choices,
        subject=subjects,
        length=lengths,
        is_echoed=st.booleans(),
        is_last=st.booleans(),
    )
    def publish(
        self, choice: int, subject: bytes, length: int, is_echoed: bool, is_last: bool
    ) -> None:
        client = self.client(choice)
        if client is not None:
            client.publish(subject, length, is_echoed=is_echoed)
            if is_last:
                client.member.finish()

    @rule(choice=choices, which=choices, subject=subjects, deliveries_max=st.integers(0, 1))
    def publish_while_a_member_of_a_group_leaves(
        self, choice: int, which: int, subject: bytes, deliveries_max: int
    ) -> None:
        members = [one for one in self.host.model.live if one.queue and one.wants(subject)]
        client = self.client(choice)
        if client is not None and members:
            for length in (SMALL, LARGE, OVERSIZE):
                client.publish(subject, length)
            client.member.finish()
            one = members[which % len(members)]
            assert isinstance(one.client, Client)
            if one.is_live:
                one.client.unsubscribe(one, deliveries_max)

    @rule(choice=choices, subject=subjects)
    def publish_more_than_a_ring_holds(self, choice: int, subject: bytes) -> None:
        client = self.client(choice)
        if client is not None:
            for number in range(FILL):
                client.publish(subject, OVERSIZE if number % 5 == 4 else LARGE)

    @rule(choice=choices, queue=queues, answers_at_once=st.booleans())
    def serve(self, choice: int, queue: bytes | None, answers_at_once: bool) -> None:
        client = self.client(choice)
        if client is not None:
            client.answers_at_once = answers_at_once
            client.subscribe(SERVICE, queue)

    @rule(choice=choices)
    def request(self, choice: int) -> None:
        client = self.client(choice)
        if client is not None:
            inbox = b"inbox.%d" % (self.host.take_number(),)
            client.subscribe(inbox, None)
            client.publish(SERVICE, SMALL, inbox)
            client.member.finish()

    # --- the machinery -------------------------------------------------------------------------

    @precondition(lambda self: self.host.members)
    @rule(choice=choices)
    def finish(self, choice: int) -> None:
        self.member(choice).finish()

    @precondition(lambda self: self.host.members)
    @rule(choice=choices)
    def run(self, choice: int) -> None:
        self.member(choice).run()

    @precondition(lambda self: self.host.full_ways())
    @rule(choice=choices, count=st.sampled_from([1, 1, 2, 100]))
    def deliver(self, choice: int, count: int) -> None:
        ways = self.host.full_ways()
        self.host.deliver(ways[choice % len(ways)], count)

    @precondition(lambda self: self.host.members)
    @rule(choice=choices)
    def call_later(self, choice: int) -> None:
        callbacks = self.member(choice).post.callbacks
        if callbacks:
            callbacks.popleft()()

    @precondition(lambda self: self.host.members)
    @rule(choice=choices)
    def tick(self, choice: int) -> None:
        member = self.member(choice)
        self.host.now_ms += 1
        if not member.is_accepting:
            member.on_control()

    # --- the supervisor ------------------------------------------------------------------------

    @precondition(lambda self: len(self.host.members) > 1)
    @rule(choice=choices, arriving=st.integers(0, 3))
    def kill(self, choice: int, arriving: int) -> None:
        self.host.kill(self.member(choice).identity[0], arriving)

    @precondition(lambda self: self.host.unreaped)
    @rule()
    def reap(self) -> None:
        self.host.reap(min(self.host.unreaped))

    @precondition(lambda self: len(self.host.members) + len(self.host.unreaped) < self.count)
    @rule()
    def restart(self) -> None:
        gone = set(range(self.count)) - set(self.host.members) - self.host.unreaped
        self.host.start(min(gone))

    # --- at rest -------------------------------------------------------------------------------

    @rule()
    def all_arrives(self) -> None:
        self.host.settle()

    @precondition(lambda self: len(self.host.model.unsettled()) > 60)
    @rule()
    def come_to_rest(self) -> None:
        """Everything owed has come; then every member's interest is what the clients want."""
        self.host.settle()
        self.host.check_rest()
        for member in self.host.members.values():
            for client in member.clients:
                client.ping()
        self.host.settle()
        for one in self.host.model.live:
            assert one.is_confirmed
        for member in self.host.members.values():
            for subject in SUBJECTS:
                wanted = any(one.wants(subject) for one in self.host.model.live)
                assert bool(member.clients[0].publish(subject, SMALL)) == wanted
            self.host.settle()
            self.host.check_rest()

    def teardown(self) -> None:
        if hasattr(self, "host"):
            try:
                # What a rule has found would be hidden by what comes of it.
                if sys.exc_info()[0] is None:
                    self.come_to_rest()
            finally:
                for doorbell in self.host.doorbells:
                    doorbell.close()


@pytest.mark.timeout(300)  # half a minute of schedules on a busy machine, minutes under ASan
def test_any_schedule_of_a_mesh_looks_like_one_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mesh, "SNAPSHOT_ENTRIES", 2)
    run_state_machine_as_test(
        MeshMachine,
        settings=settings(
            max_examples=300,
            stateful_step_count=60,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        ),
    )


# --- corners that a schedule finds too rarely -----------------------------------------------------


def settled(count: int) -> tuple[Host, list[Member]]:
    """A host whose members are all ready."""
    host = Host(count)
    members = [host.start(slot) for slot in range(count)]
    host.settle()
    return host, members


def come_to_rest(host: Host) -> None:
    host.settle()
    host.check_rest()


def test_a_pong_waits_for_a_process_that_gets_ready_before_the_interest_is_announced() -> None:
    host = Host(2)
    first = host.start(0)
    host.settle()
    second = host.start(1)
    first.run()
    first.clients[0].subscribe(b"c", None)
    first.clients[0].ping()
    host.deliver((first.identity, second.identity), 1)
    assert second.is_accepting
    first.finish()
    second.clients[0].publish(b"c", SMALL)
    second.finish()
    come_to_rest(host)


def test_a_process_accepts_clients_only_with_all_interest_announced_before_it_was_ready() -> None:
    host = Host(2)
    first = host.start(0)
    host.settle()
    second = host.start(1)
    first.run()
    one = first.clients[0].subscribe(b"c", None)
    first.clients[0].ping()
    first.finish()
    assert one.is_confirmed
    accepting = []
    for _ in range(2):
        host.deliver((first.identity, second.identity), 1)
        accepting.append(second.is_accepting)
    assert accepting == [False, True]
    second.clients[0].publish(b"c", SMALL)
    come_to_rest(host)
    assert one.received == [0]


def test_a_consumer_that_is_far_behind_reads_every_batch_once_and_in_order() -> None:
    host, (publisher, subscriber) = settled(2)
    one = subscriber.clients[0].subscribe(b"c", None)
    subscriber.clients[0].ping()
    host.settle()
    for _ in range(100):
        publisher.clients[0].publish(b"c", SMALL)
        publisher.finish()
    come_to_rest(host)
    assert one.received == list(range(100))


def test_a_full_ring_wakes_consumers_that_nothing_is_for() -> None:
    host, (publisher, subscriber, idle) = settled(3)
    subscriber.clients[0].subscribe(b"c", None)
    subscriber.clients[0].ping()
    host.settle()
    idle.run()
    for _ in range(2 * FILL):
        publisher.clients[0].publish(b"c", LARGE)
    publisher.finish()
    assert publisher.dispatcher.is_full
    come_to_rest(host)


def test_a_ring_held_by_the_dead_is_free_again_once_it_is_reaped() -> None:
    host, (publisher, dead, subscriber) = settled(3)
    for member in (dead, subscriber):
        member.clients[0].subscribe(b"c", None)
        member.clients[0].ping()
    host.settle()
    host.kill(dead.identity[0], 0)
    for _ in range(2 * FILL):
        publisher.clients[0].publish(b"c", LARGE)
    for _ in range(4):
        publisher.finish()
        subscriber.run()
    assert publisher.dispatcher.is_full
    come_to_rest(host)


def test_what_the_dead_had_published_arrives_and_what_it_had_not_does_not() -> None:
    host, (dead, subscriber) = settled(2)
    one = subscriber.clients[0].subscribe(b"c", None)
    subscriber.clients[0].ping()
    host.settle()
    dead.clients[0].publish(b"c", SMALL)
    dead.finish()
    dead.clients[0].publish(b"c", SMALL)
    host.kill(dead.identity[0], 0)
    host.settle()
    assert one.received == [0]
    host.start(dead.identity[0])
    host.settle()
    come_to_rest(host)
    assert one.received == [0]


def test_what_the_dead_still_had_to_say_is_not_taken_for_its_successor() -> None:
    host, (dead, watcher) = settled(2)
    dead.clients[0].subscribe(b"c", None)
    dead.finish()
    way = (dead.identity, watcher.identity)
    host.kill(dead.identity[0], 1)
    host.reap(dead.identity[0])
    host.start(dead.identity[0])
    watcher.run()
    assert host.full_ways()[0] == way
    host.deliver(way, 1)
    come_to_rest(host)
    assert watcher.clients[0].publish(b"c", SMALL) == 0


def test_a_message_for_a_group_whose_chosen_member_left_goes_to_another_once() -> None:
    host, (publisher, left, other) = settled(3)
    leaving = left.clients[0].subscribe(b"c", b"q")
    left.clients[0].ping()
    host.settle()
    taking = other.clients[0].subscribe(b"c", b"q")
    plain = other.clients[1].subscribe(b"c", None)
    other.clients[1].ping()
    host.settle()
    left.clients[0].unsubscribe(leaving, 0)
    for _ in range(20):
        publisher.clients[0].publish(b"c", SMALL)
        publisher.clients[0].publish(b"c", OVERSIZE)
    publisher.finish()
    come_to_rest(host)
    assert left.dispatcher.handed_on > 0
    assert sorted(taking.received) == sorted(plain.received) == list(range(40))


def test_each_member_of_a_group_is_equally_likely_wherever_it_is() -> None:
    host, members = settled(3)
    subscriptions = [
        member.clients[number % 2].subscribe(b"c", b"q")
        for count, member in enumerate(members, 1)
        for number in range(count)
    ]
    host.settle()
    rounds = 400
    for _ in range(rounds):
        for member in members:
            member.clients[0].publish(b"c", SMALL)
        host.settle()
    come_to_rest(host)
    shares = [len(one.received) for one in subscriptions]
    expected = rounds * len(members) / len(subscriptions)
    # Chi-square with five degrees of freedom: beyond 25.7 once in ten thousand seeds.
    assert sum(shares) == rounds * len(members)
    assert sum((share - expected) ** 2 / expected for share in shares) < 25.7


def test_a_request_that_is_handed_on_waits_for_its_first_publishers_interest() -> None:
    host = Host(3)
    a, b, c = (host.start(index) for index in range(3))
    host.settle()
    leaving = b.clients[0].subscribe(b"service", b"q")
    b.clients[0].ping()
    host.settle()
    staying = c.clients[0].subscribe(b"service", b"q")
    c.clients[0].ping()
    c.finish()
    # b knows of the member at c, a does not yet; the member that a will choose has gone.
    host.deliver((c.identity, b.identity), 9)
    b.clients[0].unsubscribe(leaving, 0)
    inbox = a.clients[0].subscribe(b"inbox", None)
    a.clients[0].publish(b"service", 1, b"inbox")
    a.finish()
    host.deliver((a.identity, b.identity), 9)
    b.run()
    # c has what b handed on, and not yet what a wants.
    host.deliver((b.identity, c.identity), 9)
    c.run()
    assert len(staying.received) == 0
    host.settle()
    assert len(staying.received) == 1
    assert len(inbox.received) == 1
