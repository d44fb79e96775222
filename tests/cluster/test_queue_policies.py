"""Queue policies with real processes: on hosts of one, two and four workers, and over hosts."""

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

import pytest
from _pytest.mark import ParameterSet

from tests.support.broker import Broker, make_broker
from tests.support.cluster import Hosts
from tests.support.policy_model import chi_square, host_of
from tests.support.waiting import wait_until
from tests.support.wireclient import WireClient

POLICIES = """
shardd { queue_policies: [
  { subject: "sticky.>", policy: sticky }
  { subject: "customer", group: "w*", policy: random }
  { subject: "customer", group: "q", policy: sticky, header: "Customer-Id" }
  { subject: "turn.*", policy: round_robin }
  { subject: "near", policy: local }
] }
"""
MEMBERS = 6


class Crew:
    """Members of one group on some servers, one connection each."""

    def __init__(self, brokers: Sequence[Broker], subject: bytes, group: bytes = b"q") -> None:
        self.subject = subject
        self.group = group
        self.members: list[WireClient] = []
        self.places: list[int] = []
        self.got: Counter[bytes] = Counter()  # what `read` has found
        for number, broker in enumerate(brokers):
            self.join(broker, number)

    def join(self, broker: Broker, place: int = 0) -> None:
        member = WireClient(broker.host, broker.port).connect(headers=True)
        member.send(b"SUB %b %b 1\r\nSUB end 2\r\n" % (self.subject, self.group))
        self.read(member)
        self.members.append(member)
        self.places.append(place)

    def read(self, member: WireClient) -> None:
        """Until its PONG, noting what comes before it."""
        member.send(b"PING\r\n")
        text = member.read_until(b"PONG\r\n")
        self.got.update(line for line in text.split(b"\r\n") if line.startswith(b"#"))

    def leave(self, index: int) -> None:
        leaver = self.members.pop(index)
        self.places.pop(index)
        leaver.send(b"UNSUB 1\r\n")
        self.read(leaver)
        leaver.close()

    def wait_known(self, publisher: WireClient) -> None:
        """Until what the publisher says comes to every member, wherever it is."""
        for member in self.members:
            wait_until(partial(self._hears, member, publisher), "a member to be known")
        self.collect(publisher)

    def _hears(self, member: WireClient, publisher: WireClient) -> bool:
        publisher.publish(b"end", b"hello")
        publisher.ping()
        member.send(b"PING\r\n")
        return b"hello" in member.read_until(b"PONG\r\n")

    def collect(self, publisher: WireClient) -> list[list[bytes]]:
        """The payloads that each member has had until now."""
        token = b"%d" % random.getrandbits(62)
        publisher.publish(b"end", token)
        publisher.ping()
        found = []
        for member in self.members:
            text = member.read_until(b"\r\n" + token + b"\r\n")
            found.append([line[1:] for line in text.split(b"\r\n") if line.startswith(b"#")])
        return found

    def owners(self, publisher: WireClient, messages: Sequence[tuple[bytes, bytes]]) -> list[int]:
        """Publish messages of a subject and a header block; the index of who got each."""
        for number, (subject, block) in enumerate(messages):
            payload = b"#%d" % number
            if block:
                sizes = b"%d %d" % (len(block), len(block) + len(payload))
                publisher.send(b"HPUB %b %b\r\n%b%b\r\n" % (subject, sizes, block, payload))
            else:
                publisher.publish(subject, payload)
        owner = {}
        for index, payloads in enumerate(self.collect(publisher)):
            for payload in payloads:
                assert payload not in owner, "a message came twice"
                owner[payload] = index
        assert len(owner) == len(messages), "a message was lost"
        return [owner[b"%d" % number] for number in range(len(messages))]

    def are_all_chosen(self, publisher: WireClient) -> bool:
        """Whether some messages of one subject come to every member."""
        messages = [(self.subject.replace(b"*", b"a"), b"")] * 5 * len(self.members)
        return len(set(self.owners(publisher, messages))) == len(self.members)

    def close(self) -> None:
        for member in self.members:
            member.close()


def slow(size: int) -> ParameterSet:
    return pytest.param(size, marks=pytest.mark.slow)


@pytest.fixture(scope="module", params=[slow(1), slow(2), 4])
def broker(request: pytest.FixtureRequest) -> Iterator[Broker]:
    broker = make_broker(f"shardd-{request.param}")
    broker.start_text(POLICIES)
    yield broker
    broker.stop()


@pytest.fixture(scope="module", params=[slow(2), 3])
def hosts(request: pytest.FixtureRequest) -> Iterator[Hosts]:
    hosts = Hosts()
    for _ in range(request.param):
        hosts.add("shardd-2", more=POLICIES)
    hosts.settle()
    yield hosts
    hosts.stop()


def publishers_of(brokers: Sequence[Broker]) -> list[WireClient]:
    return [WireClient(broker.host, broker.port).connect(headers=True) for broker in brokers]


def close_all(clients: Sequence[WireClient], crew: Crew) -> None:
    for client in clients:
        client.close()
    crew.close()


def sticky_messages(rng: random.Random, count: int = 300) -> list[tuple[bytes, bytes]]:
    return [(b"sticky.%x" % key, b"") for key in rng.sample(range(2**32), count)]


def test_a_key_has_one_member_from_every_worker(broker: Broker, rng: random.Random) -> None:
    crew = Crew([broker] * MEMBERS, b"sticky.>")
    publishers = publishers_of([broker] * 4)
    messages = sticky_messages(rng)
    first = crew.owners(publishers[0], messages)
    assert all(crew.owners(publisher, messages) == first for publisher in publishers)
    counts = Counter(first)
    assert chi_square([counts[index] for index in range(MEMBERS)], [1] * MEMBERS) < 25.7
    crew.leave(2)
    publishers[0].ping()
    wait_until(
        lambda: max(crew.owners(publishers[1], messages)) < MEMBERS - 1, "the end to be known"
    )
    # The others moved down by one in the list of members, not in what they get.
    moved = [index - (index > 2) for index in first]
    after = crew.owners(publishers[3], messages)
    assert all(a == b for a, b, old in zip(after, moved, first, strict=True) if old != 2)
    crew.join(broker)
    grown = crew.owners(publishers[2], messages)
    assert all(b in (a, MEMBERS - 1) for a, b in zip(after, grown, strict=True))
    assert MEMBERS - 1 in grown
    close_all(publishers, crew)


def test_a_header_is_the_key_and_without_it_the_subject(broker: Broker) -> None:
    crew = Crew([broker] * MEMBERS, b"customer")
    publishers = publishers_of([broker] * 2)

    def with_id(number: int, more: bytes = b"") -> tuple[bytes, bytes]:
        return b"customer", b"NATS/1.0\r\n%bCustomer-Id: %d\r\n\r\n" % (more, number)

    messages = [with_id(number) for number in range(60)]
    first = crew.owners(publishers[0], messages)
    assert len(set(first)) == MEMBERS
    others = [with_id(number, b"Customer-Id-2: x\r\nA: b\r\n") for number in range(60)]
    assert crew.owners(publishers[1], others) == first
    plain = [(b"customer", b""), (b"customer", b"NATS/1.0\r\nA: b\r\n\r\n")] * 10
    assert len(set(crew.owners(publishers[1], plain))) == 1
    close_all(publishers, crew)


def test_round_robin_is_even(broker: Broker) -> None:
    crew = Crew([broker] * MEMBERS, b"turn.*")
    publishers = publishers_of([broker] * 3)
    for publisher in publishers:
        got = crew.owners(publisher, [(b"turn.%d" % n, b"") for n in range(20 * MEMBERS)])
        counts = Counter(got)
        # At most one for each process whose turn was not a whole one before, and one more.
        assert max(counts.values()) - min(counts.values()) <= 2
    close_all(publishers, crew)


def test_hosts_agree_on_the_member_of_a_key(hosts: Hosts, rng: random.Random) -> None:
    places = [*range(len(hosts.brokers)), 0, 1, 1]
    crew = Crew([hosts[place] for place in places[:-3]], b"sticky.>")
    # A host counts all of its members, whichever pattern they are there for.
    crew.subject = b"sticky.*"
    for place in places[-3:]:
        crew.join(hosts[place], place)
    publishers = publishers_of(hosts.brokers)
    for publisher in publishers:
        crew.wait_known(publisher)
    messages = sticky_messages(rng, 150)
    weights = Counter(f"host{place + 1}" for place in places)
    expected = [host_of(subject, weights) for subject, _ in messages]

    def agree() -> bool:
        owners = [crew.owners(publisher, messages) for publisher in publishers]
        found = [f"host{places[index] + 1}" for index in owners[0]]
        return found == expected and all(each == owners[0] for each in owners)

    # Who is a member is known to all only in its own time: interest travels by itself.
    wait_until(agree, "all hosts to choose as the model does")
    assert agree()
    close_all(publishers, crew)


def test_round_robin_goes_over_hosts_too(hosts: Hosts) -> None:
    count = len(hosts.brokers)
    crew = Crew([hosts[place % count] for place in range(2 * count)], b"turn.*")
    publishers = publishers_of(hosts.brokers)
    for publisher in publishers:
        crew.wait_known(publisher)
        wait_until(partial(crew.are_all_chosen, publisher), "all members to be known")
        counts = Counter(crew.owners(publisher, [(b"turn.a", b"")] * (20 * 2 * count)))
        assert max(counts.values()) - min(counts.values()) <= 3
    close_all(publishers, crew)


def test_local_stays_on_the_host_while_it_has_a_member(hosts: Hosts) -> None:
    crew = Crew([hosts[0], hosts[0], hosts[1]], b"near")
    publishers = publishers_of(hosts.brokers)
    for publisher in publishers:
        crew.wait_known(publisher)
    messages = [(b"near", b"")] * 60
    wait_until(
        lambda: set(crew.owners(publishers[0], messages)) == {0, 1}, "both members of the host"
    )
    assert set(crew.owners(publishers[1], messages)) == {2}
    crew.leave(2)
    # Without a member of its own the second host sends to the first one.
    publishers[1].ping()
    wait_until(lambda: set(crew.owners(publishers[1], messages)) == {0, 1}, "the other host")
    close_all(publishers, crew)


def test_a_reload_changes_the_policies_in_force(broker: Broker) -> None:
    crew = Crew([broker] * MEMBERS, b"sticky.>")
    publishers = publishers_of([broker] * 2)
    same = [(b"sticky.a", b"")] * 60
    broker.reload("debug: false")
    assert all(len(set(crew.owners(publisher, same))) > 1 for publisher in publishers)
    broker.reload(POLICIES)

    def is_one(publisher: WireClient) -> bool:
        return len(set(crew.owners(publisher, same))) == 1

    for publisher in publishers:
        wait_until(partial(is_one, publisher), "one member")
    assert crew.owners(publishers[0], same) == crew.owners(publishers[1], same)
    close_all(publishers, crew)


@pytest.mark.slow
def test_what_a_nats_server_sends_is_sticky_on_the_host_it_comes_to() -> None:
    hosts = Hosts()
    try:
        other, broker = hosts.add("nats-server"), hosts.add("shardd-2", more=POLICIES)
        hosts.settle()
        crew = Crew([broker] * MEMBERS, b"sticky.>")
        publishers = publishers_of([other, broker])
        for publisher in publishers:
            crew.wait_known(publisher)
        messages = sticky_messages(random.Random(1), 100)
        first = crew.owners(publishers[0], messages)
        assert len(set(first)) == MEMBERS
        assert crew.owners(publishers[1], messages) == first
        close_all(publishers, crew)
    finally:
        hosts.stop()


@pytest.mark.slow
@pytest.mark.parametrize("subject", [b"sticky.x", b"turn.x", b"near", b"any"])
def test_nothing_is_lost_or_doubled_while_members_come_and_go(
    hosts: Hosts, subject: bytes, rng: random.Random
) -> None:
    # One stays on each host: what comes to a host whose last member has just left ends there.
    stay = len(hosts.brokers)
    crew = Crew(hosts.brokers, subject)
    publishers = publishers_of(hosts.brokers)
    for publisher in publishers:
        crew.wait_known(publisher)
    sent = 0
    for _ in range(40):
        for publisher in publishers:
            for _ in range(50):
                publisher.publish(subject, b"#%d" % sent)
                sent += 1
        if len(crew.members) < stay + 3:
            crew.join(rng.choice(hosts.brokers))
        else:
            # It unsubscribes and reads what was on its way.
            crew.leave(rng.randrange(stay, stay + 3))

    def has_all() -> bool:
        for member in crew.members:
            crew.read(member)
        return len(crew.got) == sent

    try:
        wait_until(has_all, "every message to arrive")
    finally:
        missing = {b"#%d" % n for n in range(sent)} - set(crew.got)
        print("missing:", sorted(missing)[:20], len(missing), "of", sent)
    assert set(crew.got.values()) == {1}
    close_all(publishers, crew)
