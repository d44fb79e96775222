"""Compiled permissions against rules that are read out loud."""

from hypothesis import given
from hypothesis import strategies as st

from shardd.config import model
from shardd.router.permissions import Permissions, ReplyGrants

TOKENS = ("a", "b", "c")
LITERALS = st.lists(st.sampled_from(TOKENS), min_size=1, max_size=3).map(".".join)
PATTERNS = st.builds(
    lambda tokens, tail: ".".join([*tokens, *tail]),
    st.lists(st.sampled_from((*TOKENS, "*")), min_size=1, max_size=3),
    st.sampled_from(([], [">"])),
) | st.just(">")
QUEUES = st.sampled_from(("", "a", "b", "a.b"))
ENTRIES = st.tuples(PATTERNS, st.sampled_from(("", "", "", " a", " *", " a.>"))).map("".join)


def matches(pattern: str, subject: str) -> bool:
    """Whether a pattern matches what is taken for a literal."""
    wanted, given_tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        head = wanted[:-1]
        return len(given_tokens) > len(head) and matches_all(head, given_tokens[: len(head)])
    return len(wanted) == len(given_tokens) and matches_all(wanted, given_tokens)


def matches_all(wanted: list[str], tokens: list[str]) -> bool:
    return all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))


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
        return plain, any(matches(group, queue) for group in groups)

    subscribe = rules.subscribe
    if subscribe.allow:
        plain, group = listed(subscribe.allow)
        if not (plain if group is None else group):
            return False
    plain, group = listed(subscribe.deny)
    return not plain and not group


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


@given(RULES, st.lists(LITERALS, min_size=1, max_size=12))
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


@given(RULES, PATTERNS, LITERALS)
def test_no_message_that_is_denied_passes_a_filter(
    rules: model.Permissions, pattern: str, subject: str
) -> None:
    compiled = Permissions(rules)
    plain = [entry for entry in rules.subscribe.deny if " " not in entry]
    is_denied = any(matches(each, subject) for each in plain)
    assert compiled.can_receive(subject.encode()) == (not is_denied)
    if matches(pattern, subject) and is_denied:
        assert compiled.is_filtered(pattern.encode())


@given(st.integers(-1, 5), st.integers(1, 20))
def test_replies_are_granted_as_often_as_allowed(maximum: int, tries: int) -> None:
    grants = ReplyGrants(model.ResponseRules(maximum or 1, 10.0))
    grants.add(b"reply", 1000)
    used = sum(grants.use(b"reply", 1000 + n) for n in range(tries))
    assert used == (tries if maximum < 0 else min(tries, maximum or 1))


def test_a_grant_ends_with_its_time() -> None:
    grants = ReplyGrants(model.ResponseRules(5, 2.0))
    grants.add(b"reply", 1000)
    assert grants.use(b"reply", 3000)
    assert not grants.use(b"reply", 3001)
    assert len(grants) == 0


def test_grants_are_bounded_and_the_newest_stay() -> None:
    grants = ReplyGrants(model.ResponseRules(1, -1))
    for number in range(10_000):
        grants.add(b"%d" % number, 0)
    assert len(grants) <= 4096
    assert grants.use(b"9999", 0)
    assert not grants.use(b"0", 0)
