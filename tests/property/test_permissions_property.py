"""Compiled permissions against rules that are read out loud."""

import itertools
import tracemalloc
from collections.abc import Iterator
from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from shardd import limits
from shardd.config import model
from shardd.router.permissions import Permissions, ReplyGrants

TOKENS = ("a", "b", "c")
LITERALS = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=3).map(".".join)
# What may be published to is any bytes: wildcards are ordinary there, empty tokens reach nobody.
PUBLISHED = st.lists(st.sampled_from((*TOKENS, "*", ">", "")), min_size=1, max_size=3).map(".".join)
PATTERNS = st.builds(
    lambda tokens, tail: ".".join([*tokens, *tail]),
    st.lists(st.sampled_from((*TOKENS, "*")), min_size=1, max_size=3),
    st.sampled_from(([], [">"])),
) | st.just(">")
# A group may have any name; what a rule says of groups is a valid pattern.
QUEUES = st.sampled_from(("", "a", "b", "a.b", "b.", ">", "*", "a..b"))
ENTRIES = st.tuples(PATTERNS, st.sampled_from(("", "", "", " a", " *", " a.>", " b.*", " >"))).map(
    "".join
)


def every(tokens: tuple[str, ...], tokens_max: int) -> Iterator[str]:
    """Every subject of at most so many of these tokens."""
    for count in range(1, tokens_max + 1):
        yield from map(".".join, itertools.product(tokens, repeat=count))


def matches(pattern: str, subject: str) -> bool:
    """Whether a pattern matches what is taken for a literal."""
    wanted, given_tokens = pattern.split("."), subject.split(".")
    if "" in given_tokens:
        return False
    if wanted[-1] == ">":
        head = wanted[:-1]
        return len(given_tokens) > len(head) and matches_all(head, given_tokens[: len(head)])
    return len(wanted) == len(given_tokens) and matches_all(wanted, given_tokens)


def matches_all(wanted: list[str], tokens: list[str]) -> bool:
    return all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))


def names(pattern: str, queue: str) -> bool:
    """Whether the queue pattern of a rule takes in a group."""
    if not queue:
        return False
    wanted, tokens = pattern.split("."), queue.split(".")
    is_open = wanted[-1] == ">"
    head = wanted[:-1] if is_open else wanted
    if len(tokens) < len(wanted) or (not is_open and len(tokens) > len(wanted)):
        return False
    return all(
        w == t or (w == "*" and t not in ("", ">")) for w, t in zip(head, tokens, strict=False)
    )


def may_publish(rules: model.Permissions, subject: str) -> bool:
    publish = rules.publish
    if any(matches(each, subject) for each in publish.deny):
        return False
    if publish.allow:
        return any(matches(each, subject) for each in publish.allow)
    return rules.responses is None


def may_subscribe(rules: model.Permissions, subject: str, queue: str) -> bool:
    def listed(entries: tuple[str, ...]) -> tuple[bool, bool | None]:
        """Whether a plain entry matches; and whether one for groups does, None: none is there."""
        parts = [(*entry.split(), "")[:2] for entry in entries]
        plain = any(not group and matches(pattern, subject) for pattern, group in parts)
        groups = [group for pattern, group in parts if group and matches(pattern, subject)]
        if not queue or not groups:
            return plain, None
        return plain, any(names(group, queue) for group in groups)

    subscribe = rules.subscribe
    if subscribe.allow:
        plain, group = listed(subscribe.allow)
        if not (plain if group is None else group):
            return False
    plain, group = listed(subscribe.deny)
    return not plain and not group


def may_receive(rules: model.Permissions, subject: str, queue: str) -> bool:
    parts = [(*entry.split(), "")[:2] for entry in rules.subscribe.deny]
    return not any(
        matches(pattern, subject) and (not group or names(group, queue)) for pattern, group in parts
    )


RULES = st.builds(
    model.Permissions,
    publish=st.builds(
        model.SubjectRules,
        allow=st.lists(PATTERNS, max_size=3).map(tuple),
        deny=st.lists(PATTERNS, max_size=3).map(tuple),
    ),
    subscribe=st.builds(
        model.SubjectRules,
        allow=st.lists(ENTRIES, max_size=3).map(tuple),
        deny=st.lists(ENTRIES, max_size=3).map(tuple),
    ),
    responses=st.none() | st.just(model.ResponseRules()),
)


@given(RULES, st.lists(PUBLISHED, min_size=1, max_size=12))
def test_a_publish_is_allowed_as_the_rules_say_also_when_asked_again(
    rules: model.Permissions, subjects: list[str]
) -> None:
    compiled = Permissions(rules)
    for subject in subjects * 2:
        assert compiled.can_publish(subject.encode()) == may_publish(rules, subject)


@given(RULES, PATTERNS, QUEUES)
def test_a_subscription_is_allowed_as_the_rules_say(
    rules: model.Permissions, subject: str, queue: str
) -> None:
    compiled = Permissions(rules)
    expected = may_subscribe(rules, subject, queue)
    assert compiled.can_subscribe(subject.encode(), queue.encode()) == expected


def test_a_rule_s_queue_pattern_takes_in_the_groups_that_it_should() -> None:
    groups = [each for each in every(("a", "b", "*", ">", ""), 3) if each]
    for pattern in [">", *every(("a", "*"), 3), *(f"{each}.>" for each in every(("a", "*"), 2))]:
        rules = model.SubjectRules(allow=(f"s {pattern}",))
        compiled = Permissions(model.Permissions(subscribe=rules))
        taken_in = {each for each in groups if compiled.can_subscribe(b"s", each.encode())}
        assert taken_in == {each for each in groups if names(pattern, each)}


@given(RULES, st.lists(st.tuples(LITERALS, QUEUES), min_size=1, max_size=12))
def test_what_is_denied_to_a_group_is_left_out_for_that_group_only(
    rules: model.Permissions, deliveries: list[tuple[str, str]]
) -> None:
    compiled = Permissions(rules)
    for subject, queue in deliveries * 2:
        expected = may_receive(rules, subject, queue)
        assert compiled.can_receive(subject.encode(), queue.encode()) == expected
        assert compiled.can_publish(subject.encode()) == may_publish(rules, subject)


@given(RULES, PATTERNS, QUEUES)
def test_a_subscription_is_filtered_if_something_of_it_is_denied(
    rules: model.Permissions, pattern: str, queue: str
) -> None:
    is_any_denied = any(
        matches(pattern, subject) and not may_receive(rules, subject, queue)
        for subject in every(TOKENS, 4)  # two patterns that overlap have one of these in common
    )
    assert Permissions(rules).is_filtered(pattern.encode(), queue.encode()) == is_any_denied


def test_verdicts_stay_right_when_there_are_more_than_are_kept() -> None:
    deny = tuple(f"no.{number}" for number in range(300))
    compiled = Permissions(model.Permissions(publish=model.SubjectRules(deny=deny)))
    for number in [*range(limits.PERMISSION_CACHE_ENTRIES * 2)] * 2:
        assert compiled.can_publish(b"no.%d" % number) == (number >= 300)


def test_an_entry_that_is_no_pattern_matches_nothing_and_still_restricts() -> None:
    bad: tuple[str, ...] = ("", " ", "a b", ".a", "a.", ">.a", "a..b")
    only_bad = Permissions(model.Permissions(publish=model.SubjectRules(allow=bad)))
    beside = Permissions(model.Permissions(publish=model.SubjectRules(allow=(*bad, "c"))))
    denied = Permissions(model.Permissions(publish=model.SubjectRules(deny=(*bad, "c"))))
    for subject, is_listed in ((b"a", False), (b"b", False), (b"a b", False), (b"c", True)):
        assert not only_bad.can_publish(subject)
        assert beside.can_publish(subject) == is_listed
        assert denied.can_publish(subject) == (not is_listed)


def test_a_subscribe_entry_that_is_no_pattern_matches_nothing_and_still_restricts() -> None:
    bad = ("", "a b c", ">.a", "a ..", "a >.a")
    only_bad = Permissions(model.Permissions(subscribe=model.SubjectRules(allow=bad)))
    allowed = Permissions(model.Permissions(subscribe=model.SubjectRules(allow=(*bad, "c"))))
    denied = Permissions(model.Permissions(subscribe=model.SubjectRules(deny=(*bad, "c"))))
    for subject, queue, is_listed in (
        (b"a", b"b", False),
        (b"a", b">.a", False),
        (b"c", b"", True),
    ):
        assert not only_bad.can_subscribe(subject, queue)
        assert allowed.can_subscribe(subject, queue) == is_listed
        assert denied.can_subscribe(subject, queue) == (not is_listed)


# --- what was asked may be answered -------------------------------------------------------------

REPLIES = st.sampled_from((b"r", b"s", b"l" * 63, b"l" * 64, b"m" * 64, b"l" * 4000))


@given(
    st.sampled_from((-1, 1, 2, 3)),
    st.sampled_from((-1.0, 0.000001, 0.0005, 0.002, 0.005)),
    st.lists(st.tuples(st.sampled_from(("ask", "answer", "answer")), REPLIES, st.integers(0, 4))),
)
def test_replies_are_granted_as_the_rules_say(
    maximum: int, expires_s: float, steps: list[tuple[str, bytes, int]]
) -> None:
    grants = ReplyGrants(model.ResponseRules(maximum, expires_s))
    granted: dict[bytes, tuple[int, int]] = {}  # since when, and answers left
    now_ms = 1000
    for step, reply, wait_ms in steps:
        now_ms += wait_ms
        if step == "ask":
            grants.add(reply, now_ms)
            granted[reply] = now_ms, maximum
        else:
            since_ms, left = granted.pop(reply, (now_ms, 0))
            if expires_s > 0 and now_ms - since_ms > int(expires_s * 1000):
                left = 0
            assert grants.use(reply, now_ms) == (left != 0)
            if left not in (0, 1):
                granted[reply] = since_ms, max(left - 1, -1)


def test_a_grant_ends_with_its_time() -> None:
    grants = ReplyGrants(model.ResponseRules(5, 2.0))
    grants.add(b"reply", 1000)
    assert grants.use(b"reply", 3000)
    assert not grants.use(b"reply", 3001)
    assert len(grants) == 0


def test_grants_whose_time_is_over_go_with_the_next_one() -> None:
    grants = ReplyGrants(model.ResponseRules(5, 2.0))
    for number in range(100):
        grants.add(b"early.%d" % number, 1000)
    grants.add(b"early.0", 2000)
    grants.add(b"late", 3001)
    assert len(grants) == 2
    assert grants.use(b"early.0", 3001)
    assert not grants.use(b"early.1", 3001)


def test_grants_are_bounded_and_the_newest_stay() -> None:
    grants = ReplyGrants(model.ResponseRules(1, -1))
    bound = limits.REPLY_GRANTS_MAX
    for number in range(bound):
        grants.add(b"%d" % number, 0)
    grants.add(b"0", 0)  # asked again: the newest now
    for number in range(bound, bound + 10):
        grants.add(b"%d" % number, 0)
    assert len(grants) == bound
    assert grants.use(b"0", 0)
    assert not grants.use(b"10", 0)
    assert grants.use(b"11", 0)
    assert grants.use(b"%d" % (bound + 9), 0)


def test_long_replies_take_no_more_memory_than_others() -> None:
    grants = ReplyGrants(model.ResponseRules(-1, -1))
    tracemalloc.start()
    try:
        for number in range(500):
            grants.add(b"%04000d" % number, 0)
        assert tracemalloc.get_traced_memory()[0] < 500 * 1000
    finally:
        tracemalloc.stop()
    assert grants.use(b"%04000d" % 7, 0)
    assert not grants.use(b"%04000d" % 500, 0)
    assert not grants.use(blake2b(b"%04000d" % 7).digest(), 0)
