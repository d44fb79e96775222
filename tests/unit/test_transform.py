"""Subjects into other subjects: every function, and what cannot be."""

import pytest

from shardd.transform import Transform, fnv_1a, intersection, matches


@pytest.mark.parametrize(
    ("source", "destination", "subject", "expected"),
    [
        ("a", "b", "a", "b"),
        ("a.*", "b.$1", "a.x", "b.x"),
        ("a.*.*", "b.{{wildcard(2)}}.$1", "a.x.y", "b.y.x"),
        ("a.*.*", "b.*.*", "a.x.y", "b.x.y"),
        ("a.>", "b.c.>", "a.x.y", "b.c.x.y"),
        ("*.>", "p.$1.>", "a.x.y", "p.a.x.y"),
        ("a.*", "b.{{ partition( 10 , 1 ) }}", "a.foo", "b.3"),
        ("a.*.*", "b.{{partition(5,1,2)}}", "a.f.oo", f"b.{fnv_1a('foo') % 5}"),
        ("a.*", "b.{{split(1,-)}}", "a.-x-y-", "b.x.y"),
        ("a.*", "b.{{splitfromleft(1,3)}}", "a.abcdef", "b.abc.def"),
        ("a.*", "b.{{SplitFromRight(1,2)}}", "a.abcdef", "b.abcd.ef"),
        ("a.*", "b.{{slicefromleft(1,2)}}", "a.abcde", "b.ab.cd.e"),
        ("a.*", "b.{{slicefromright(1,2)}}", "a.abcde", "b.a.bc.de"),
        ("a.*", "b.{{left(1,2)}}.{{right(1,2)}}", "a.abcde", "b.ab.de"),
        ("a.*", "b.{{left(1,9)}}", "a.abc", "b.abc"),
        ("a.*", "b.{{random(1)}}", "a.abc", "b.0"),
    ],
)
def test_a_subject_goes_where_its_mapping_says(
    source: str, destination: str, subject: str, expected: str
) -> None:
    transform = Transform(source, destination, lambda below: below - 1)
    assert transform.matches(subject)
    assert transform.apply(subject) == expected


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        ("a", "b.$1"),
        ("a.*", "b.$2"),
        ("a.*", "b.$0"),
        ("a.*", "b.{{wildcard(x)}}"),
        ("a.*", "b.{{wildcard(1,1)}}"),
        ("a.*", "b.{{nothing(1)}}"),
        ("a.*", "b.{{partition(0,1)}}"),
        ("a.*", "b.{{left(1,x)}}"),
        ("a", "b..c"),
        ("a", "b.>"),
        ("a", "b.>.c"),
    ],
)
def test_what_the_source_does_not_have_is_refused(source: str, destination: str) -> None:
    with pytest.raises(ValueError, match="mapping destination"):
        Transform(source, destination, lambda below: 0)


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ("a.b", "a.b", "a.b"),
        ("a.*", "*.b", "a.b"),
        ("a.>", "a.*.c", "a.*.c"),
        (">", "a.*", "a.*"),
        ("a.>", "b.>", None),
        ("a", "a.>", None),
        ("a.*", "a", None),
        ("a.>", "a.>", "a.>"),
    ],
)
def test_patterns_meet(a: str, b: str, expected: str | None) -> None:
    for first, second in ((a, b), (b, a)):
        met = intersection(first.split("."), second.split("."))
        assert (None if met is None else ".".join(met)) == expected


def test_a_tail_needs_something_to_match() -> None:
    assert matches(["a", ">"], ["a", "b", "c"])
    assert not matches(["a", ">"], ["a"])
    assert not matches(["a"], ["a", "b"])
