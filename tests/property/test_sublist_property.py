"""The subject index against its plain-Python twin, through random lives of subscriptions.

Few tokens, few groups and tiny caches make collisions common. A second index follows the first one
as another process would: by a snapshot in chunks, mixed with the changes, told in the same order.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from shardd.router.sublist import Sublist
from shardd.router.sublist_probe import Probe
from tests.support.sublist_oracle import Key, SublistOracle, is_valid

TOKENS = [b"a", b"b", b"ab", b"*", b">"]
patterns = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=4).map(b".".join)
valid_patterns = patterns.filter(is_valid)
literals = st.lists(
    st.sampled_from([b"a", b"a", b"b", b"b", b"ab", b"c", b"*", b">", b""]), min_size=1, max_size=4
).map(b".".join)
accounts = st.sampled_from([0, 0, 0, 1])
queues = st.sampled_from([None, None, b"q", b"r", b""])
processes = st.integers(0, 2)
counts = st.sampled_from([0, 1, 2, 7])
FOLLOWED = 5  # the number by which the follower knows the first index


def key_of(entry: tuple[int, bytes, bytes | None, int]) -> Key:
    return entry[0], entry[1], entry[2]


class SublistMachine(RuleBasedStateMachine):
    """One index, its model, and a follower."""

    handles = Bundle("handles")

    @initialize(entries=st.sampled_from([0, 1, 4, 8, 64]), size=st.sampled_from([300, 1 << 20]))
    def start(self, entries: int, size: int) -> None:
        self.index = Sublist(seed=3, cache_entries=entries, cache_bytes_max=size)
        self.probe = Probe(self.index)
        self.model = SublistOracle()
        self.follower = Probe(Sublist(seed=4, cache_entries=entries))
        self.position = 0  # in the snapshot that the follower reads; -1: it has all
        self.entries_max = entries
        self.bytes_max = size

    @rule(target=handles, account=accounts, pattern=valid_patterns, queue=queues)
    def insert(self, account: int, pattern: bytes, queue: bytes | None) -> int:
        handle = self.probe.insert(account, pattern, queue)
        self.model.subscriptions[handle] = (account, pattern, queue)
        assert self.probe.pattern(handle) == (account, pattern, queue)
        return handle

    @rule(target=handles, account=accounts, pattern=valid_patterns, queue=queues)
    def insert_and_remove(self, account: int, pattern: bytes, queue: bytes | None) -> object:
        self.probe.remove(self.probe.insert(account, pattern, queue))
        return multiple()

    @rule(handle=consumes(handles))
    def remove(self, handle: int) -> None:
        assert self.probe.pattern_after_removal(handle) == self.model.subscriptions.pop(handle)

    @rule(process=processes, account=accounts, pattern=patterns, queue=queues, count=counts)
    def set_remote(
        self, process: int, account: int, pattern: bytes, queue: bytes | None, count: int
    ) -> None:
        self.index.set_remote(process, account, pattern, queue, count)
        self.model.set_remote(process, (account, pattern, queue), count)

    @rule(process=processes)
    def drop_process(self, process: int) -> None:
        self.index.drop_process(process)
        self.model.drop_process(process)

    @rule(account=accounts, literal=literals)
    def match(self, account: int, literal: bytes) -> None:
        expected = self.model.match(account, literal)
        assert self.probe.match(account, literal) == expected
        assert self.probe.match(account, literal) == expected

    @rule(account=accounts, literal=literals, handle=consumes(handles))
    def match_while_one_is_removed(self, account: int, literal: bytes, handle: int) -> None:
        expected = self.model.match(account, literal)
        found = self.probe.match_in_use(account, literal, lambda: self.remove(handle))
        assert found == expected

    @rule()
    def release(self) -> None:
        self.probe.release()

    @rule()
    def take_changes(self) -> None:
        expected = self.model.take_changes()
        assert self.index.has_changes() == bool(expected)
        changes = self.index.take_changes()
        assert {key_of(entry): entry[3] for entry in changes} == expected
        assert len(changes) == len(expected)
        assert not self.index.has_changes()
        self.follower.index.set_remote_many(FOLLOWED, changes)

    @rule(limit=st.integers(1, 3))
    def send_a_part_of_the_snapshot(self, limit: int) -> None:
        if self.position < 0:
            return
        entries, self.position = self.index.snapshot(self.position, limit)
        assert 0 <= len(entries) <= limit
        for entry in entries:
            assert self.model.announced[key_of(entry)] == entry[3]
        self.follower.index.set_remote_many(FOLLOWED, entries)

    @rule()
    def the_follower_starts_anew(self) -> None:
        self.follower.index.drop_process(FOLLOWED)
        self.position = 0
        found = self.follower.index.statistics()
        assert found.interests == found.groups == found.trie_nodes == 0

    @rule(account=accounts, literal=literals)
    def a_follower_that_has_heard_all_routes_alike(self, account: int, literal: bytes) -> None:
        self.take_changes()
        while self.position >= 0:
            self.send_a_part_of_the_snapshot(2)
        plain, _, groups = self.model.match(account, literal)
        # The same patterns, told by the first index, seen as another process's.
        seen_plain, processes_seen, seen_groups = self.follower.match(account, literal)
        assert seen_plain == []
        assert processes_seen == (1 << FOLLOWED if plain else 0)
        assert seen_groups == {
            name: ([], {FOLLOWED: len(members)}, len(members))
            for name, (members, _, _) in groups.items()
            if members
        }

    @invariant()
    def counts_agree(self) -> None:
        found = self.index.statistics()
        keys = set(self.model.subscriptions.values()) | set(self.model.announced)
        keys |= {key for _, key in self.model.remote}
        assert found.subscriptions == len(self.model.subscriptions)
        assert found.interests == len({key[:2] for key in keys})
        assert found.groups == len({key for key in keys if key[2] is not None})
        assert found.cache_entries <= self.entries_max
        assert found.cache_bytes <= self.bytes_max

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        for handle in list(self.model.subscriptions):
            self.remove(handle)
        for process in range(3):
            self.drop_process(process)
        self.take_changes()
        self.probe.release()
        found = self.index.statistics()
        assert found.subscriptions == found.interests == found.groups == found.trie_nodes == 0


TestSublist = SublistMachine.TestCase
TestSublist.settings = settings(deadline=None, max_examples=50, stateful_step_count=50)
