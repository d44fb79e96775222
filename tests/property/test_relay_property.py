"""An index that tells on what others want: its announcements are the union, whatever the order."""

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from shardd.router.sublist import Sublist
from shardd.router.sublist_probe import Probe

Key = tuple[int, bytes, bytes | None]
Union = dict[Key, int]

keys = st.tuples(
    st.sampled_from([0, 1]),
    st.sampled_from([b"a", b"b", b"a.*", b"a.>", b">"]),
    st.sampled_from([None, None, b"q", b"r"]),
)
wishes = st.tuples(
    st.just("want"), st.integers(0, 3), keys, st.sampled_from([0, 0, 1, 2, 7, 2**32 - 1])
)
ends = st.tuples(st.just("end"), st.integers(0, 3), st.none(), st.none())
told = st.tuples(st.just("tell"), st.none(), st.none(), st.none())
lives = st.lists(st.one_of(wishes, wishes, wishes, ends, told), max_size=60)


def union_of(wanted: dict[int, Union]) -> Union:
    """What all processes together want: plain interest counts once, members add up."""
    union: Union = {}
    for wishes_of_one in wanted.values():
        for key, count in wishes_of_one.items():
            if count:
                union[key] = 1 if key[2] is None else min(union.get(key, 0) + count, 2**32 - 1)
    return union


def apply(known: Union, changes: Iterable[tuple[int, bytes, bytes | None, int]]) -> None:
    for account, subject, queue, count in changes:
        key = account, subject, queue
        assert known.get(key, 0) != count, "told although nothing changed"
        if count:
            known[key] = count
        else:
            del known[key]


def keys_of(wanted: Union) -> Union:
    """What one process wants, as it is reported: plain interest counts once."""
    return {key: 1 if key[2] is None else count for key, count in wanted.items() if count}


def parts_of(relay: Sublist, process: int) -> Union:
    """The same as the index has it, two keys at a time."""
    found: Union = {}
    position = 0
    while position >= 0:
        entries, position = relay.snapshot_of(process, position, 2)
        found |= {(account, subject, queue): count for account, subject, queue, count in entries}
    return found


@given(lives)
def test_what_is_told_is_the_union_of_what_is_wanted(life: list[tuple]) -> None:
    relay = Sublist(seed=1, is_relay=True)
    probe = Probe(relay)
    wanted: dict[int, Union] = {}
    known: Union = {}
    for kind, process, key, count in [*life, ("tell", None, None, None)]:
        if kind == "want":
            mine = wanted.setdefault(process, {})
            before = keys_of(mine)
            mine[key] = count
            account, subject, queue = key
            change = relay.set_remote(process, account, subject, queue, count)
            assert change == len(keys_of(mine)) - len(before)
        elif kind == "end":
            wanted.pop(process, None)
            relay.drop_process(process)
        else:
            changes = relay.take_changes()
            apply(known, changes)
            assert known == union_of(wanted)
            assert not relay.has_changes()
            entries, position = relay.snapshot(0, 1000)
            assert position == -1
            assert {(a, s, q): n for a, s, q, n in entries} == known
            for each, mine in wanted.items():
                assert parts_of(relay, each) == keys_of(mine)
        probe.release()
    for process in range(4):
        relay.drop_process(process)
    apply(known, relay.take_changes())
    probe.release()
    assert known == {}
    assert relay.statistics().interests == relay.statistics().groups == 0


def test_an_ordinary_index_does_not_tell_what_others_want() -> None:
    index = Sublist(seed=1)
    index.set_remote(1, 0, b"a", None, 1)
    index.set_remote(1, 0, b"a", b"q", 3)
    assert not index.has_changes()
