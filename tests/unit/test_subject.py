"""Validity of subjects, wildcards, and what a pattern matches."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardd.router import subject
from tests.support import sublist_oracle

LITERALS = [b"a", b"foo.bar", b"foo*", b"a>b.c", b"**.>>", b"f>", b"*x.y*", b"\x00.\xff"]
WILDCARDS = [b"*", b">", b"foo.*", b"foo.>", b"*.bar.>", b"*.*.*", b"a.*.c", b"foo*.>"]
INVALID = [
    b"",
    b".",
    b"..",
    b".a",
    b"a.",
    b"a..b",
    b">.a",
    b"a.>.b",
    b"a. b",
    b"a\tb",
    b"\r",
    b"a\n",
]

# Few bytes, so that tokens repeat and wildcards are common.
some_subject = st.lists(
    st.sampled_from([b"", b"a", b"b", b"ab", b"*", b">", b"a*", b"a b"]), min_size=1, max_size=6
).map(b".".join)


@pytest.mark.parametrize("text", LITERALS)
def test_a_literal_is_valid_and_has_no_wildcard(text: bytes) -> None:
    assert subject.is_valid(text)
    assert subject.is_literal(text)


@pytest.mark.parametrize("text", WILDCARDS)
def test_a_whole_token_star_or_final_chevron_is_a_wildcard(text: bytes) -> None:
    assert subject.is_valid(text)
    assert not subject.is_literal(text)


@pytest.mark.parametrize("text", INVALID)
def test_empty_tokens_inner_chevrons_and_blanks_are_invalid(text: bytes) -> None:
    assert not subject.is_valid(text)
    assert not subject.is_literal(text)


@pytest.mark.parametrize(
    ("pattern", "literal", "is_match"),
    [
        (b"foo", b"foo", True),
        (b"foo", b"fooo", False),
        (b"foo", b"foo.bar", False),
        (b"foo.*", b"foo.bar", True),
        (b"foo.*", b"foo", False),
        (b"foo.*", b"foo.bar.baz", False),
        (b"foo.>", b"foo.bar.baz", True),
        (b"foo.>", b"foo", False),
        (b">", b"foo", True),
        (b"*.bar", b"foo.bar", True),
        (b"*.*.c", b"a.b.c", True),
        (b"*.*.c", b"a.b.d", False),
        (b"a.*.>", b"a.b", False),
        (b"a.*.>", b"a.b.c.d", True),
        # What is published is a literal, whatever it looks like.
        (b"foo.*", b"foo.*", True),
        (b"foo.bar", b"foo.*", False),
        (b"foo.>", b"foo.>", True),
        (b"foo.bar", b"foo.>", False),
        (b"*.*.bar", b"foo.>.bar", True),
        # Empty tokens reach nobody.
        (b">", b"foo..bar", False),
        (b">", b".foo", False),
        (b">", b"foo.", False),
        (b"foo.>", b"foo.", False),
        (b"foo.*", b"foo.", False),
        (b"*", b"", False),
        (b"foo..bar", b"foo..bar", False),
    ],
)
def test_patterns_match_as_on_nats_server(pattern: bytes, literal: bytes, is_match: bool) -> None:
    assert subject.matches(pattern, literal) is is_match


def test_tokens_are_counted_by_dots() -> None:
    assert subject.token_count(b"a") == 1
    assert subject.token_count(b"a.b.*.>") == 4
    assert subject.token_count(b".".join([b"t"] * 3000)) == 3000


@settings(deadline=None, max_examples=300)
@given(pattern=some_subject, literal=some_subject)
def test_subjects_behave_as_their_plain_python_twins(pattern: bytes, literal: bytes) -> None:
    assert subject.is_valid(pattern) is sublist_oracle.is_valid(pattern)
    assert subject.is_literal(pattern) is sublist_oracle.is_literal(pattern)
    assert subject.matches(pattern, literal) is sublist_oracle.matches(pattern, literal)
