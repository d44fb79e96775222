"""The streaming core beside plain models: positions, in-flight, redelivery, groups, restarts."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from shardd.config.streaming import ChannelLimits, StoreLimits, StreamingOptions
from shardd.streaming.messages import PubAck, StartPosition
from tests.support import streaming_model
from tests.support.streaming_worker import Pool

CHANNEL = b"foo"
CLIENTS = ("me", "you")

# --- plain subscriptions: exactly what the model says --------------------------------------------

subscribes = st.fixed_dictionaries(
    {
        "client_id": st.sampled_from(CLIENTS),
        "durable": st.sampled_from(["", "", "d", "e"]),
        "max_in_flight": st.integers(1, 4),
        "ack_wait_s": st.integers(1, 3),
        "position": st.sampled_from(StartPosition),
        "sequence": st.integers(0, 12),
        "delta_ms": st.integers(-500, 4000),
    }
)
slots = st.integers(0, 5)
# What is sent within a few milliseconds expires within a few, too.
times = st.one_of(
    st.sampled_from([1, 10, 14, 15, 16]),
    st.sampled_from([980, 990, 999, 1000, 2000]),
    st.integers(1, 2500),
)
plain_steps = st.one_of(
    st.tuples(st.just("publish"), st.integers(1, 4)),
    st.tuples(st.just("subscribe"), subscribes),
    st.tuples(st.just("ack"), slots, st.integers(1, 15)),
    st.tuples(st.just("ack_all"), slots),
    st.tuples(st.just("end"), slots, st.booleans()),
    st.tuples(st.just("reconnect"), st.sampled_from(CLIENTS), st.booleans()),
    st.tuples(st.just("advance"), times),
    st.tuples(st.just("restart"), st.integers(0, 3000)),
)


@dataclass
class Plain:
    """The core and the model, side by side."""

    pool: Pool
    model: streaming_model.Channel
    live: list[tuple[bytes, bytes, streaming_model.Subscription]] = field(default_factory=list)
    made: int = 0

    def check(self) -> None:
        """Everything that was sent since the last time is the same, in the same order."""
        for inbox, _, expected in self.live:
            found = [(each.sequence, each.data, each.count) for each in self.pool.deliveries(inbox)]
            assert found == expected.sent, inbox
            expected.sent.clear()

    def step(self, kind: str, *values: Any) -> None:
        getattr(self, kind)(*values)
        self.check()

    def publish(self, count: int) -> None:
        payloads = [b"%d" % (self.model.last + number) for number in range(count)]
        replies = [self.pool.publish_nowait("me", CHANNEL, data) for data in payloads]
        self.pool.run()
        assert all(PubAck.decode(*self.pool.taken(reply)).error == "" for reply in replies)
        self.model.publish(payloads)

    def subscribe(self, request: dict[str, Any]) -> None:
        self.made += 1
        inbox = b"inbox.%d" % self.made
        client_id, durable = request["client_id"], request["durable"]
        is_taken = any(
            durable and (model.client_id, model.durable) == (client_id, durable)
            for _, _, model in self.live
        )
        response = self.pool.subscribe(
            client_id,
            CHANNEL,
            inbox,
            durable_name=durable,
            max_in_flight=request["max_in_flight"],
            ack_wait_s=request["ack_wait_s"],
            start_position=request["position"],
            start_sequence=request["sequence"],
            start_time_delta_ns=request["delta_ms"] * 1_000_000,
        )
        assert bool(response.error) == is_taken
        if not is_taken:
            start = self.model.start(request["position"], request["sequence"], request["delta_ms"])
            model = self.model.subscribe(
                client_id, durable, request["max_in_flight"], request["ack_wait_s"] * 1000, start
            )
            self.live.append((inbox, response.ack_inbox, model))

    def ack(self, slot: int, sequence: int) -> None:
        if self.live:
            _, ack_inbox, model = self.live[slot % len(self.live)]
            self.pool.ack(ack_inbox, CHANNEL, sequence)
            self.model.ack(model, sequence)

    def ack_all(self, slot: int) -> None:
        if self.live:
            _, ack_inbox, model = self.live[slot % len(self.live)]
            for sequence in sorted(model.pending):
                self.pool.ack(ack_inbox, CHANNEL, sequence)
                self.model.ack(model, sequence)

    def end(self, slot: int, is_unsubscribe: bool) -> None:
        if self.live:
            _, ack_inbox, model = self.live.pop(slot % len(self.live))
            assert self.pool.end(model.client_id, CHANNEL, ack_inbox, is_unsubscribe) == ""
            self.model.end(model, is_unsubscribe)

    def reconnect(self, client_id: str, is_dead: bool) -> None:
        if is_dead:
            self.pool.gone.add(b"hb." + client_id.encode())
        else:
            assert self.pool.close(client_id).error == ""
        assert self.pool.connect(client_id).error == ""
        self.pool.gone.clear()
        for each in [each for each in self.live if each[2].client_id == client_id]:
            self.live.remove(each)
            self.model.end(each[2], is_unsubscribe=False)

    def advance(self, milliseconds: int) -> None:
        self.pool.advance(milliseconds)
        self.model.advance(milliseconds)

    def restart(self, milliseconds: int) -> None:
        self.pool.save()
        self.check()
        self.pool.workers = [None] * self.pool.workers_count
        self.pool.set_clock(milliseconds)
        self.pool.boot()
        self.model.now_ms += milliseconds
        self.model.restart()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([0, 3, 6]), st.integers(1, 3), st.lists(plain_steps, max_size=40))
def test_subscriptions_are_sent_what_the_model_says(
    messages_max: int, workers: int, steps: list[tuple]
) -> None:
    limits = StoreLimits(defaults=ChannelLimits(max_msgs=messages_max))
    # Heartbeats are another test's: here they would only take part in every walk through time.
    pool = Pool(StreamingOptions(limits=limits, heartbeat_interval_s=1e6), workers)
    for client_id in CLIENTS:
        pool.connect(client_id)
    both = Plain(pool, streaming_model.Channel(pool.now_ms, messages_max))
    for kind, *values in steps:
        both.step(kind, *values)


# --- queue groups: what must hold whoever is picked ----------------------------------------------

group_steps = st.one_of(
    st.tuples(st.just("publish"), st.integers(1, 5)),
    st.tuples(st.just("join"), st.sampled_from(CLIENTS), st.integers(1, 3), st.integers(1, 2)),
    st.tuples(st.just("ack"), slots, st.integers(0, 5)),
    st.tuples(st.just("leave"), slots),
    st.tuples(st.just("advance"), st.integers(1, 2500)),
    st.tuples(st.just("restart"), st.integers(0, 2500)),
)


@dataclass
class Member:
    """What one member has seen."""

    inbox: bytes
    ack_inbox: bytes
    client_id: str
    max_in_flight: int
    new: list[int] = field(default_factory=list)
    held: list[int] = field(default_factory=list)


class Group:
    """A durable queue group and its members' own account of it."""

    def __init__(self, workers: int) -> None:
        self.pool = Pool(StreamingOptions(heartbeat_interval_s=1e6), workers)
        for client_id in CLIENTS:
            self.pool.connect(client_id)
        self.members: list[Member] = []
        self.made = 0
        self.published = 0
        self.sent_new: Counter[int] = Counter()
        self.acked: set[int] = set()

    def check(self) -> None:
        for member in self.members:
            for each in self.pool.deliveries(member.inbox):
                assert each.data == b"%d" % each.sequence
                assert each.sequence not in self.acked, "acknowledged, and sent again"
                if not each.redelivered:
                    assert not member.new or member.new[-1] < each.sequence
                    member.new.append(each.sequence)
                    self.sent_new[each.sequence] += 1
                member.held.append(each.sequence)
        assert all(count == 1 for count in self.sent_new.values()), "new to two members"
        if self.published:
            channel = self.pool.channel(CHANNEL)
            in_flight = [
                sequence
                for subscription in channel.subscriptions.values()
                for sequence in subscription.in_flight.sequences()
            ]
            assert len(in_flight) == len(set(in_flight)), "in flight with two members"
            assert set(in_flight) == set(self.sent_new) - self.acked

    def publish(self, count: int) -> None:
        replies = []
        for _ in range(count):
            self.published += 1
            replies.append(self.pool.publish_nowait("me", CHANNEL, b"%d" % self.published))
        self.pool.run()
        assert all(PubAck.decode(*self.pool.taken(reply)).error == "" for reply in replies)

    def join(self, client_id: str, max_in_flight: int, ack_wait_s: int) -> None:
        self.made += 1
        inbox = b"inbox.%d" % self.made
        ack_inbox = self.pool.subscribed(
            client_id,
            CHANNEL,
            inbox,
            queue_group="q",
            durable_name="d",
            max_in_flight=max_in_flight,
            ack_wait_s=ack_wait_s,
        )
        self.members.append(Member(inbox, ack_inbox, client_id, max_in_flight))

    def ack(self, slot: int, which: int) -> None:
        if self.members:
            member = self.members[slot % len(self.members)]
            if member.held:
                sequence = member.held.pop(which % len(member.held))
                self.pool.ack(member.ack_inbox, CHANNEL, sequence)
                # A member that is too late clears it for whoever has it now.
                self.acked.add(sequence)

    def leave(self, slot: int) -> None:
        if self.members:
            member = self.members.pop(slot % len(self.members))
            self.pool.end(member.client_id, CHANNEL, member.ack_inbox)

    def advance(self, milliseconds: int) -> None:
        self.pool.advance(milliseconds)

    def restart(self, milliseconds: int) -> None:
        self.pool.save()
        self.check()
        self.pool.workers = [None] * self.pool.workers_count
        self.pool.set_clock(milliseconds)
        self.pool.boot()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3), st.lists(group_steps, max_size=40))
def test_each_message_of_a_group_is_with_one_member_until_it_is_acknowledged(
    workers: int, steps: list[tuple]
) -> None:
    group = Group(workers)
    for kind, *values in steps:
        getattr(group, kind)(*values)
        group.check()
    # In the end somebody acknowledges everything, and nothing is missing.
    group.join("me", 100, 1)
    for _ in range(20):
        group.pool.advance(2000)
        group.check()
        for slot, member in enumerate(group.members):
            while member.held:
                group.ack(slot, 0)
        group.check()
    assert group.acked == set(range(1, group.published + 1))


# --- commits that end late, badly or never -------------------------------------------------------

commit_steps = st.one_of(
    st.tuples(st.just("publish"), st.sampled_from([b"foo", b"bar"])),
    st.tuples(st.just("finish"), st.sets(st.sampled_from([b"foo", b"bar"])), st.booleans()),
    st.tuples(st.just("crash")),
    st.tuples(st.just("pass")),
)


class Commits:
    """Publishers who remember what they were told, and one durable subscriber."""

    def __init__(self) -> None:
        self.pool = Pool(StreamingOptions(heartbeat_interval_s=1e6))
        self.pool.connect("me")
        self.published = 0
        self.waiting: dict[bytes, tuple[bytes, bytes]] = {}
        self.stored: dict[bytes, list[bytes]] = {b"foo": [], b"bar": []}
        self.refused: set[bytes] = set()
        for name in self.stored:
            self.pool.subscribed("me", name, b"in." + name, durable_name="d")
        self.seen: dict[bytes, dict[int, bytes]] = {b"foo": {}, b"bar": {}}
        self.pool.holds_commits = True

    def publish(self, name: bytes) -> None:
        self.published += 1
        data = b"%d" % self.published
        self.waiting[self.pool.publish_nowait("me", name, data)] = name, data

    def finish(self, failed: set[bytes], has_state_error: bool) -> None:
        store = self.pool.worker().store
        if store.is_committing:
            error = "no space left"
            store.finish(dict.fromkeys(failed, error), error if has_state_error else "")

    def crash(self) -> None:
        self.pool.holds_commits = False
        self.pool.crash()
        self.pool.holds_commits = True
        self.check()
        self.waiting.clear()  # nobody will ever know

    def look(self) -> None:
        self.pool.run()
        self.check()

    def check(self) -> None:
        for name, seen in self.seen.items():
            for each in self.pool.deliveries(b"in." + name):
                assert seen.setdefault(each.sequence, each.data) == each.data, "another message"
        acks = [(reply, self.pool.taken(reply)) for reply in self.waiting]
        for reply, answers in acks:
            if answers:
                (answer,) = answers
                name, data = self.waiting.pop(reply)
                if PubAck.decode(answer).error:
                    self.refused.add(data)
                else:
                    self.stored[name].append(data)


@settings(max_examples=100, deadline=None)
@given(st.lists(commit_steps, max_size=60))
def test_what_is_acknowledged_is_there_and_what_is_refused_is_not(steps: list[tuple]) -> None:
    commits = Commits()
    for kind, *values in steps:
        getattr(commits, "look" if kind == "pass" else kind)(*values)
        commits.check()
    commits.pool.holds_commits = False
    if commits.pool.worker().store.is_committing:
        commits.pool.worker().store.finish()
    commits.pool.advance(1000)
    commits.check()
    commits.crash()
    commits.pool.holds_commits = False
    commits.pool.advance(60_000)
    commits.check()
    for name, acknowledged in commits.stored.items():
        seen = commits.seen[name]
        assert sorted(seen) == list(range(1, len(seen) + 1)), "a gap"
        in_order = [seen[sequence] for sequence in sorted(seen)]
        assert not set(in_order) & commits.refused
        assert [data for data in in_order if data in set(acknowledged)] == acknowledged
        assert set(acknowledged) <= set(in_order)
