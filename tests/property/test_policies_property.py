"""Queue policies on a host of several processes, against a model: who is chosen, and what moves."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from shardd.config.model import PolicyKind, QueuePolicy
from tests.support.mesh_host import Client, Host
from tests.support.policy_model import Member, chi_square, order_of
from tests.support.server_model import Subscribed

KEYS = 300
SMALL = 1


class Group:
    """A host whose processes follow a policy, and the members of one group on it."""

    def __init__(self, processes: int, *policies: QueuePolicy) -> None:
        self.host = Host(processes)
        self.members: dict[Member, tuple[Client, Subscribed]] = {}
        for slot in range(processes):
            member = self.host.start(slot)
            member.dispatcher.set_policies(policies, {"$G": 0}, "host")
        self.host.settle()

    def join(self, slot: int, pattern: bytes = b"c.*") -> Member:
        process = self.host.members[slot]
        identity = slot, process.sublist.inserts
        client = process.clients[0]
        self.members[identity] = client, client.subscribe(pattern, b"q")
        return identity

    def leave(self, member: Member) -> None:
        client, one = self.members.pop(member)
        client.unsubscribe(one, 0)

    def settle(self) -> None:
        for process in self.host.members.values():
            process.finish()
        self.host.settle()

    def owners(self, subjects: Sequence[bytes], publisher: int) -> list[Member]:
        """Publish to each subject at one process; who got it."""
        before = {member: len(one.received) for member, (_, one) in self.members.items()}
        numbers = {}
        for subject in subjects:
            numbers[len(self.host.model.messages)] = subject
            self.host.members[publisher].clients[1].publish(subject, SMALL)
            self.settle()
        got = {
            numbers[number]: member
            for member, (_, one) in self.members.items()
            for number in one.received[before[member] :]
        }
        assert len(got) == len(subjects)
        return [got[subject] for subject in subjects]

    def close(self) -> None:
        self.host.settle()
        self.host.check_rest()
        for doorbell in self.host.doorbells:
            doorbell.close()


def policy(kind: PolicyKind, **more: str) -> QueuePolicy:
    return QueuePolicy(subject=more.pop("subject", ">"), policy=kind, **more)


def subjects_of(rng: random.Random) -> list[bytes]:
    return [b"c.%x" % number for number in rng.sample(range(2**32), KEYS)]


def test_sticky_chooses_as_the_model_wherever_the_publisher_is(rng: random.Random) -> None:
    group = Group(3, policy(PolicyKind.STICKY))
    for slot in (0, 0, 1, 2, 2, 2):
        group.join(slot)
    group.settle()
    subjects = subjects_of(rng)
    expected = [order_of(subject, list(group.members))[0] for subject in subjects]
    for publisher in range(3):
        assert group.owners(subjects, publisher) == expected
    counts = Counter(expected)
    # Five degrees of freedom: beyond 25.7 once in ten thousand seeds.
    assert chi_square([counts[member] for member in group.members], [1] * 6) < 25.7
    group.close()


def test_only_the_keys_of_who_leaves_move_and_a_newcomer_takes_its_own(rng: random.Random) -> None:
    group = Group(2, policy(PolicyKind.STICKY))
    for slot in (0, 0, 0, 1, 1):
        group.join(slot)
    group.settle()
    subjects = subjects_of(rng)
    for _ in range(6):
        before = group.owners(subjects, rng.randrange(2))
        if rng.random() < 0.5:
            gone = rng.choice(list(group.members))
            group.leave(gone)
            group.settle()
            after = group.owners(subjects, rng.randrange(2))
            assert all(a == b for a, b in zip(before, after, strict=True) if a != gone)
            assert gone not in after
        else:
            newcomer = group.join(rng.randrange(2))
            group.settle()
            after = group.owners(subjects, rng.randrange(2))
            assert all(b in (a, newcomer) for a, b in zip(before, after, strict=True))
            assert newcomer in after
    group.close()


def test_a_member_that_takes_another_ones_place_is_told_though_the_count_is_the_same() -> None:
    group = Group(2, policy(PolicyKind.STICKY))
    members = [group.join(0), group.join(0), group.join(1)]
    group.settle()
    group.leave(members[0])
    group.join(0)
    group.settle()
    subjects = [b"c.%d" % number for number in range(64)]
    expected = [order_of(subject, list(group.members))[0] for subject in subjects]
    assert group.owners(subjects, 1) == group.owners(subjects, 0) == expected
    group.close()


def test_sticky_members_on_two_patterns_are_one_group_for_a_subject_that_both_match() -> None:
    group = Group(2, policy(PolicyKind.STICKY))
    for slot, pattern in ((0, b"c.*"), (1, b"c.>"), (1, b"c.*"), (0, b">")):
        group.join(slot, pattern)
    group.settle()
    subjects = [b"c.%d" % number for number in range(64)]
    expected = [order_of(subject, list(group.members))[0] for subject in subjects]
    assert group.owners(subjects, 0) == group.owners(subjects, 1) == expected
    assert len(set(expected)) == 4
    group.close()


def test_a_policy_that_comes_while_members_are_there_is_followed_by_all() -> None:
    group = Group(2)
    for slot in (0, 1, 1):
        group.join(slot)
    group.settle()
    subjects = [b"c.%d" % number for number in range(64)]
    group.owners(subjects, 0)
    for process in group.host.members.values():
        process.dispatcher.set_policies([policy(PolicyKind.STICKY)], {}, "host")
    group.settle()
    expected = [order_of(subject, list(group.members))[0] for subject in subjects]
    assert group.owners(subjects, 0) == group.owners(subjects, 1) == expected
    group.close()


def test_a_process_with_too_many_members_to_tell_counts_as_one_with_their_weight() -> None:
    group = Group(2, policy(PolicyKind.STICKY))
    for _ in range(300):
        group.join(0)
    for _ in range(100):
        group.join(1)
    group.settle()
    subjects = [b"c.%d" % number for number in range(400)]
    owners = group.owners(subjects, 0)
    assert owners == group.owners(subjects, 1)
    on_first = sum(slot == 0 for slot, _ in owners)
    # Five standard deviations.
    assert abs(on_first - 300) < 44
    group.close()


@pytest.mark.parametrize("processes", [1, 3])
def test_round_robin_is_even_from_every_process(processes: int) -> None:
    group = Group(processes, policy(PolicyKind.ROUND_ROBIN))
    for slot in (0, 0, 1 % processes, 2 % processes, 2 % processes):
        group.join(slot)
    group.settle()
    rounds = 40
    for publisher in range(processes):
        counts = Counter(group.owners([b"c.%d" % n for n in range(5 * rounds)], publisher))
        assert sorted(counts.values()) == [rounds] * 5
    group.close()


def test_local_is_random_among_the_hosts_members(rng: random.Random) -> None:
    group = Group(2, policy(PolicyKind.LOCAL))
    for slot in (0, 1, 1):
        group.join(slot)
    group.settle()
    counts = Counter(group.owners(subjects_of(rng), 0))
    assert chi_square([counts[member] for member in group.members], [1] * 3) < 18.5
    group.close()


def test_the_first_policy_that_matches_counts() -> None:
    group = Group(
        2,
        policy(PolicyKind.ROUND_ROBIN, subject="c.even.*", group="q"),
        policy(PolicyKind.STICKY, subject="c.>", group="*"),
        policy(PolicyKind.ROUND_ROBIN, subject=">"),
    )
    for slot in (0, 1):
        group.join(slot, b"c.>")
    group.settle()
    turns = group.owners([b"c.even.%d" % n for n in range(40)], 0)
    assert sorted(Counter(turns).values()) == [20, 20]
    subjects = [b"c.odd.%d" % n for n in range(40)]
    expected = [order_of(subject, list(group.members))[0] for subject in subjects]
    assert group.owners(subjects, 0) == expected
    group.close()


@pytest.mark.parametrize("kind", PolicyKind)
def test_nothing_is_lost_or_doubled_while_members_come_and_go(
    kind: PolicyKind, rng: random.Random
) -> None:
    """Random schedules; the host's model raises for what is lost, doubled or out of order."""
    group = Group(3, policy(kind))
    host = group.host
    for slot in range(3):
        host.members[slot].clients[1].subscribe(b"c.*", b"q")
        host.members[slot].clients[1].ping()
    group.settle()
    for _ in range(600):
        slot = rng.randrange(3)
        step = rng.random()
        if step < 0.15:
            group.join(slot)
            host.members[slot].clients[0].ping()
        elif step < 0.3 and group.members:
            group.leave(rng.choice(list(group.members)))
        elif step < 0.7:
            publisher = host.members[slot].clients[rng.randrange(2)]
            publisher.publish(b"c.%d" % rng.randrange(9), SMALL, is_echoed=rng.random() < 0.8)
        elif step < 0.85:
            host.members[slot].run()
        elif ways := host.full_ways():
            host.deliver(rng.choice(ways), rng.randrange(1, 4))
    group.close()
    assert sum(len(message.owed_groups) for message in host.model.unsettled()) == 0
