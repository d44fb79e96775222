"""The subject index: matching, queue groups, the cache, what is announced, what others want."""

import pytest

from shardd.limits import PROCESSES_MAX
from shardd.router.sublist import Sublist
from shardd.router.sublist_probe import Probe
from tests.support.sublist_oracle import MatchData


@pytest.fixture(params=[0, 1, 4, 64], ids="cache={}".format)
def probe(request: pytest.FixtureRequest) -> Probe:
    """An empty index, with no cache, with tiny ones, with one that holds all."""
    return Probe(Sublist(seed=11, cache_entries=request.param))


@pytest.fixture
def cached() -> Probe:
    """An empty index with an ordinary cache."""
    return Probe(Sublist(seed=12))


def plain(probe: Probe, subject: bytes, account: int = 0) -> list[int]:
    """Handles of the plain subscriptions that match."""
    return probe.match(account, subject)[0]


def is_empty(probe: Probe) -> bool:
    """Whether nothing is left that costs memory."""
    found = probe.index.statistics()
    return found.subscriptions == found.interests == found.groups == found.trie_nodes == 0


def test_literals_and_wildcards_match_side_by_side(probe: Probe) -> None:
    literal = probe.insert(0, b"foo.bar")
    star = probe.insert(0, b"foo.*")
    chevron = probe.insert(0, b"foo.>")
    everything = probe.insert(0, b">")
    middle = probe.insert(0, b"*.bar")
    deep = probe.insert(0, b"*.*.baz")
    for _ in range(2):
        assert plain(probe, b"foo.bar") == [literal, star, chevron, everything, middle]
        assert plain(probe, b"foo") == [everything]
        assert plain(probe, b"foo.bar.baz") == [chevron, everything, deep]
        assert plain(probe, b"nothing.here.at.all") == [everything]


def test_two_subscriptions_to_one_subject_are_both_found(probe: Probe) -> None:
    handles = [probe.insert(0, b"a.b") for _ in range(5)]
    assert plain(probe, b"a.b") == handles
    probe.remove(handles[2])
    probe.remove(handles[0])
    assert plain(probe, b"a.b") == [handles[1], handles[3], handles[4]]


@pytest.mark.parametrize("subject", [b"", b".", b"foo..bar", b".foo", b"foo.", b"foo.bar.", b"..b"])
def test_a_subject_with_an_empty_token_reaches_nobody(probe: Probe, subject: bytes) -> None:
    for pattern in (b">", b"*", b"foo.>", b"foo.*", b"*.*", b"*.>", b"foo.*.bar", b"*.*.*"):
        probe.insert(0, pattern)
    assert probe.match(0, subject) == ([], 0, {})


def test_wildcards_in_a_published_subject_are_ordinary_bytes(probe: Probe) -> None:
    literal = probe.insert(0, b"foo.bar")
    star = probe.insert(0, b"foo.*")
    chevron = probe.insert(0, b"foo.>")
    inner = probe.insert(0, b"foo.*.bar")
    assert plain(probe, b"foo.*") == [star, chevron]
    assert plain(probe, b"foo.>") == [star, chevron]
    assert plain(probe, b"foo.>.bar") == [chevron, inner]
    assert plain(probe, b"*") == []
    assert literal not in plain(probe, b"foo.*")


def test_accounts_do_not_see_each_other(probe: Probe) -> None:
    ours = [probe.insert(0, b"a.b"), probe.insert(0, b"a.*")]
    theirs = [probe.insert(2**32 - 1, b"a.b"), probe.insert(2**32 - 1, b">")]
    probe.index.set_remote(5, 7, b"a.b", None, 1)
    for _ in range(2):
        assert probe.match(0, b"a.b") == (ours, 0, {})
        assert probe.match(2**32 - 1, b"a.b") == (theirs, 0, {})
        assert probe.match(7, b"a.b") == ([], 1 << 5, {})


def test_a_group_is_one_group_over_all_patterns_that_match(probe: Probe) -> None:
    first = probe.insert(0, b"foo.*", b"workers")
    second = probe.insert(0, b"foo.>", b"workers")
    third = probe.insert(0, b"foo.a", b"others")
    probe.index.set_remote(3, 0, b"foo.a", b"workers", 4)
    probe.index.set_remote(3, 0, b"foo.>", b"workers", 2)
    probe.index.set_remote(9, 0, b"foo.*", b"workers", 1)
    probe.index.set_remote(9, 0, b"foo.*", b"only there", 8)
    assert probe.match(0, b"foo.a") == (
        [],
        0,
        {
            b"workers": ([first, second], {3: 6, 9: 1}, 9),
            b"others": ([third], {}, 1),
            b"only there": ([], {9: 8}, 8),
        },
    )
    assert probe.match(0, b"foo.a.b") == ([], 0, {b"workers": ([second], {3: 2}, 3)})


def test_group_names_of_any_bytes_and_no_bytes_are_different_groups(probe: Probe) -> None:
    names = [b"", b"\x00", b"\x00\x00", b"a", b"b", b"aa", b"a" * 300]
    handles = [probe.insert(0, b"x.y", name) for name in names]
    same = [probe.insert(0, b"x.*", name) for name in names]
    groups = probe.match(0, b"x.y")[2]
    assert {name: members for name, (members, _, _) in groups.items()} == {
        name: [handle, other] for name, handle, other in zip(names, handles, same, strict=True)
    }


def test_weights_of_other_processes_are_absolute_and_saturate(probe: Probe) -> None:
    most = 2**32 - 1
    probe.index.set_remote(1, 0, b"a", b"q", 5)
    probe.index.set_remote(1, 0, b"a", b"q", 3)
    assert probe.match(0, b"a")[2] == {b"q": ([], {1: 3}, 3)}
    probe.index.set_remote(1, 0, b"a", b"q", most)
    probe.index.set_remote(1, 0, b"*", b"q", most)
    assert probe.match(0, b"a")[2] == {b"q": ([], {1: most}, most)}
    probe.index.set_remote(1, 0, b"a", b"q", 0)
    probe.index.set_remote(1, 0, b"*", b"q", 0)
    assert probe.match(0, b"a") == ([], 0, {})
    assert is_empty(probe)


def test_every_process_has_its_bit(probe: Probe) -> None:
    for process in range(PROCESSES_MAX):
        probe.index.set_remote(process, 0, b"a.b", None, 1)
        probe.index.set_remote(process, 0, b"a.*", b"q", process + 1)
    total = PROCESSES_MAX * (PROCESSES_MAX + 1) // 2
    weights = {process: process + 1 for process in range(PROCESSES_MAX)}
    assert probe.match(0, b"a.b") == ([], 2**PROCESSES_MAX - 1, {b"q": ([], weights, total)})
    for process in range(PROCESSES_MAX):
        probe.index.drop_process(process)
    assert is_empty(probe)


def test_a_process_out_of_range_and_other_nonsense_of_a_peer_is_refused(cached: Probe) -> None:
    index = cached.index
    with pytest.raises(ValueError, match="no such process"):
        index.set_remote(PROCESSES_MAX, 0, b"a", None, 1)
    with pytest.raises(ValueError, match="no such process"):
        index.drop_process(PROCESSES_MAX)
    for entry in [
        (0, b"a", None, -1),
        (0, b"a", None, 2**32),
        (-1, b"a", None, 1),
        (2**32, b"a", None, 1),
        (0, "a", None, 1),
        (0, None, None, 1),
        (0, b"a", "q", 1),
        (0, b"a", None, "1"),
        (0, b"a", None),
    ]:
        with pytest.raises((TypeError, ValueError, OverflowError)):
            index.set_remote_many(1, [entry])  # type: ignore[list-item]
    assert is_empty(cached)


@pytest.mark.parametrize("subject", [b"", b".", b"a..b", b">.a", b"a b", b"a\r\nSUB > 1", b"a."])
def test_an_invalid_pattern_is_refused_here_and_ignored_from_a_peer(
    cached: Probe, subject: bytes
) -> None:
    with pytest.raises(ValueError, match="not a valid subject"):
        cached.insert(0, subject)
    cached.index.set_remote(1, 0, subject, None, 1)
    cached.index.set_remote(1, 0, subject, b"q", 1)
    assert cached.match(0, subject) == ([], 0, {})
    assert is_empty(cached)


def test_patterns_of_thousands_of_tokens_are_matched_and_freed(probe: Probe) -> None:
    tokens = [b"t"] * 5000
    deep = b".".join(tokens)
    stars = probe.insert(0, b".".join([b"*"] * 5000))
    mixed = probe.insert(0, b".".join([b"*", b"t"] * 2499 + [b">"]))
    exact = probe.insert(0, deep)
    assert plain(probe, deep) == [stars, mixed, exact]
    assert plain(probe, deep + b".t") == [mixed]
    for handle in (stars, mixed, exact):
        probe.remove(handle)
    assert plain(probe, deep) == []
    assert is_empty(probe)


def test_branches_that_multiply_are_walked_without_doubles(probe: Probe) -> None:
    handles = []
    for bits in range(2**8):
        tokens = [b"*" if bits >> place & 1 else b"t" for place in range(8)]
        handles.append(probe.insert(0, b".".join(tokens)))
    assert plain(probe, b".".join([b"t"] * 8)) == handles


def test_everything_is_freed_when_the_last_one_goes(probe: Probe) -> None:
    patterns = [b"a", b"a.b", b"a.*", b"a.>", b"*", b">", b"a.*.c.>", b"*.*.*", b"a.b.c"]
    handles = [probe.insert(0, pattern) for pattern in patterns]
    handles += [probe.insert(3, pattern, b"q") for pattern in patterns]
    probe.index.set_remote_many(2, [(0, pattern, None, 1) for pattern in patterns])
    probe.index.set_remote_many(2, [(3, pattern, b"q", 9) for pattern in patterns])
    probe.index.take_changes()
    for handle in handles:
        probe.remove(handle)
    probe.index.drop_process(2)
    assert not is_empty(probe), "what was announced must be withdrawn first"
    assert probe.match(0, b"a.b") == probe.match(3, b"a.b") == ([], 0, {})
    assert len(probe.index.take_changes()) == len(handles)
    probe.release()
    assert is_empty(probe)


def test_removing_twice_does_nothing_the_second_time(probe: Probe) -> None:
    handle = probe.insert(0, b"a", b"q")
    other = probe.insert(0, b"a", b"q")
    assert probe.remove_twice(handle)
    assert probe.index.statistics().subscriptions == 1
    assert probe.match(0, b"a")[2] == {b"q": ([other], {}, 1)}


def test_a_removed_subscription_knows_its_pattern_until_release(probe: Probe) -> None:
    handle = probe.insert(4, b"a.*", b"q")
    assert probe.pattern(handle) == (4, b"a.*", b"q")
    assert probe.pattern_after_removal(handle) == (4, b"a.*", b"q")
    plain_one = probe.insert(4, b"b")
    assert probe.pattern_after_removal(plain_one) == (4, b"b", None)
    probe.release()
    assert is_empty(probe)


def test_a_match_in_use_survives_removal_eviction_and_other_matches(probe: Probe) -> None:
    handles = [probe.insert(0, b"a.b"), probe.insert(0, b"a.*"), probe.insert(0, b"a.>", b"q")]
    expected: MatchData = (handles[:2], 0, {b"q": ([handles[2]], {}, 1)})

    def upheaval() -> None:
        for handle in handles:
            probe.remove(handle)
        for number in range(500):
            probe.match(0, b"other.%d" % number)
        probe.insert(0, b"a.b")
        probe.match(0, b"a.b")

    assert probe.match_in_use(0, b"a.b", upheaval) == expected
    probe.release()
    assert len(plain(probe, b"a.b")) == 1


# --- the cache ------------------------------------------------------------------------------------


def is_hit(probe: Probe, subject: bytes, account: int = 0) -> bool:
    """Whether a match of the subject is found in the cache."""
    before = probe.index.statistics().cache_hits
    probe.match(account, subject)
    return probe.index.statistics().cache_hits == before + 1


def test_the_second_match_of_a_subject_is_found_in_the_cache(cached: Probe) -> None:
    cached.insert(0, b"a.b")
    assert not is_hit(cached, b"a.b")
    assert is_hit(cached, b"a.b")
    assert not is_hit(cached, b"a.b", account=1)
    assert cached.index.statistics().cache_entries == 2


def test_a_literal_change_drops_only_the_result_of_that_subject(cached: Probe) -> None:
    subjects = [b"a.b", b"a.c", b"a.b.c", b"a"]
    for subject in subjects:
        cached.match(0, subject)
    handle = cached.insert(0, b"a.b")
    for subject in subjects:
        assert is_hit(cached, subject) == (subject != b"a.b")
    cached.remove(handle)
    for subject in subjects:
        assert is_hit(cached, subject) == (subject != b"a.b")


@pytest.mark.parametrize(
    ("pattern", "stale"),
    [
        (b"a.b.*", {b"a.b.c", b"a.b.c.d"}),
        (b"a.b.c.>", {b"a.b.c", b"a.b.c.d"}),
        (b"a.*", {b"a.b", b"a.b.c", b"a.b.c.d", b"a.x.c"}),
        (b"a.>", {b"a.b", b"a.b.c", b"a.b.c.d", b"a.x.c"}),
        (b"*", {b"a", b"a.b", b"a.b.c", b"a.b.c.d", b"a.x.c", b"z", b"z.b.c"}),
        (b">", {b"a", b"a.b", b"a.b.c", b"a.b.c.d", b"a.x.c", b"z", b"z.b.c"}),
    ],
)
def test_a_wildcard_change_touches_only_results_with_its_leading_tokens(
    cached: Probe, pattern: bytes, stale: set[bytes]
) -> None:
    subjects = [b"a", b"a.b", b"a.b.c", b"a.b.c.d", b"a.x.c", b"z", b"z.b.c"]

    def missed() -> set[bytes]:
        return {subject for subject in subjects if not is_hit(cached, subject)}

    missed()
    assert missed() == set()
    handle = cached.insert(0, pattern)
    assert missed() == stale
    cached.remove(handle)
    assert missed() == stale
    cached.index.set_remote(1, 0, pattern, b"q", 1)
    assert missed() == stale
    cached.index.set_remote(1, 0, pattern, b"q", 1)
    assert missed() == set(), "what was said before is no news"
    cached.index.set_remote(1, 0, pattern, b"q", 2)
    assert missed() == stale
    cached.index.drop_process(1)
    assert missed() == stale
    assert missed() == set()


def test_a_storm_of_inboxes_leaves_an_unrelated_result_in_the_cache(cached: Probe) -> None:
    cached.insert(0, b"orders.*")
    plain(cached, b"orders.new")
    for number in range(5000):
        cached.remove(cached.insert(0, b"_INBOX.%d.*" % number))
        assert is_hit(cached, b"orders.new")
        cached.release()


def test_the_cache_is_bounded_in_entries() -> None:
    probe = Probe(Sublist(seed=1, cache_entries=64))
    for number in range(5000):
        probe.match(0, b"s.%d" % number)
        probe.release()
    assert 32 <= probe.index.statistics().cache_entries <= 64


def test_the_cache_is_bounded_in_bytes_and_keeps_no_result_larger_than_it() -> None:
    probe = Probe(Sublist(seed=1, cache_entries=1024, cache_bytes_max=4096))
    everyone = [probe.insert(0, b"big") for _ in range(1000)]
    for number in range(300):
        probe.match(0, b"s.%d" % number)
        assert plain(probe, b"big") == everyone
        probe.release()
    found = probe.index.statistics()
    assert 2048 < found.cache_bytes <= 4096
    assert found.cache_entries > 10


def test_the_longest_unused_result_of_a_set_gives_way() -> None:
    probe = Probe(Sublist(seed=1, cache_entries=4))
    for subject in (b"a", b"b", b"c", b"d", b"a", b"e"):
        probe.match(0, subject)
    assert all(is_hit(probe, subject) for subject in (b"a", b"c", b"d", b"e"))
    assert not is_hit(probe, b"b")


# --- what is announced ----------------------------------------------------------------------------


def test_plain_interest_is_announced_once_and_withdrawn_once(probe: Probe) -> None:
    index = probe.index
    assert not index.has_changes()
    first = probe.insert(2, b"a.*")
    assert index.has_changes()
    assert index.take_changes() == [(2, b"a.*", None, 1)]
    assert not index.has_changes()
    second = probe.insert(2, b"a.*")
    probe.remove(first)
    assert not index.has_changes()
    assert index.take_changes() == []
    probe.remove(second)
    assert index.take_changes() == [(2, b"a.*", None, 0)]
    assert is_empty(probe)


def test_queue_interest_is_announced_with_its_number_of_members(probe: Probe) -> None:
    index = probe.index
    members = [probe.insert(0, b"a", b"q") for _ in range(3)]
    assert index.take_changes() == [(0, b"a", b"q", 3)]
    probe.remove(members[0])
    probe.insert(0, b"a", b"other")
    assert index.take_changes() == [(0, b"a", b"q", 2), (0, b"a", b"other", 1)]
    for member in members[1:]:
        probe.remove(member)
    assert index.take_changes() == [(0, b"a", b"q", 0)]


def test_a_subscription_that_came_and_went_is_never_announced(probe: Probe) -> None:
    for queue in (None, b"q"):
        probe.remove(probe.insert(0, b"a", queue))
        assert not probe.index.has_changes()
        assert probe.index.take_changes() == []
    assert is_empty(probe)


def test_a_key_that_left_and_came_back_before_it_was_told_is_no_change(probe: Probe) -> None:
    handle = probe.insert(0, b"a", b"q")
    probe.index.take_changes()
    probe.remove(handle)
    probe.release()
    probe.insert(0, b"a", b"q")
    assert not probe.index.has_changes()
    assert probe.index.snapshot(0, 10) == ([(0, b"a", b"q", 1)], -1)


def test_interest_of_others_is_never_announced(probe: Probe) -> None:
    probe.index.set_remote(1, 0, b"a", None, 1)
    probe.index.set_remote(1, 0, b"a", b"q", 2)
    assert not probe.index.has_changes()
    assert probe.index.snapshot(0, 10) == ([], -1)


def test_a_snapshot_in_chunks_holds_every_announced_key(probe: Probe) -> None:
    expected = set()
    for number in range(25):
        probe.insert(number % 3, b"s.%d" % number, b"q" if number % 2 else None)
        expected.add((number % 3, b"s.%d" % number, b"q" if number % 2 else None, 1))
    probe.index.take_changes()
    probe.insert(0, b"not.announced.yet")
    entries: list[tuple[int, bytes, bytes | None, int]] = []
    position = chunks = 0
    while position >= 0:
        chunk, position = probe.index.snapshot(position, 10)
        entries += chunk
        chunks += 1
    assert chunks == 3
    assert sorted(entries, key=str) == sorted(expected, key=str)


def test_a_snapshot_never_misses_a_key_that_stayed_while_others_left(probe: Probe) -> None:
    handles = {number: probe.insert(0, b"s.%d" % number) for number in range(60)}
    probe.index.take_changes()
    staying = {number for number in handles if number % 5 == 0}
    leaving = [number for number in handles if number not in staying]
    seen: set[bytes] = set()
    position = 0
    while position >= 0:
        chunk, position = probe.index.snapshot(position, 3)
        seen |= {subject for _, subject, _, _ in chunk}
        for number in set(leaving[:4] + leaving[-3:]):
            probe.remove(handles[number])
            leaving.remove(number)
        probe.index.take_changes()
    assert {b"s.%d" % number for number in staying} <= seen


def test_a_snapshot_wants_a_sensible_position_and_limit(cached: Probe) -> None:
    with pytest.raises(ValueError, match="limit is positive"):
        cached.index.snapshot(0, 0)
    with pytest.raises(ValueError, match="position is not negative"):
        cached.index.snapshot(-1, 5)
    cached.insert(0, b"a")
    cached.index.take_changes()
    assert cached.index.snapshot(10**9, 5) == ([(0, b"a", None, 1)], -1)


def test_counters_tell_what_was_done(cached: Probe) -> None:
    handle = cached.insert(0, b"a.*", b"q")
    cached.insert(0, b"a.b")
    cached.remove(handle)
    cached.match(0, b"a.b")
    cached.match(0, b"a.b")
    found = cached.index.statistics()
    assert (found.inserts, found.removes, found.subscriptions) == (2, 1, 1)
    assert (found.cache_hits, found.cache_misses, found.cache_entries) == (1, 1, 1)
    assert found.cache_bytes > 0
    assert (cached.index.inserts, cached.index.removes, cached.index.subscriptions) == (2, 1, 1)
