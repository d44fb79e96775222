"""Configuration texts: any text is read or refused, and one value may be written in many ways."""

import json
import random

from hypothesis import example, given
from hypothesis import strategies as st

from shardd.config.syntax import parse
from shardd.config.tree import Section, Value
from shardd.errors import ConfigError

PIECES = (
    *("{", "}", "[", "]", "(", ")", ":", "=", ",", ";", "\n", " ", "\t", "#", "//", '"', "'", "\\"),
    *("a", "port", "include", "include 'x'", "$a", "$2a$", "1", "-", "1.5", "10k", "2kb", "true"),
    *("no", "2020-01-01T00:00:00Z", "\\x41", "\u00e9", "\x00", "99999999999999999999999"),
)


def read(text: str) -> Section:
    """The tree of a text that includes nothing that exists."""

    def missing(path: str) -> str:
        raise FileNotFoundError(2, "No such file or directory", path)

    return parse(text, "file", environment={"T": "word", "N": "7", "S": "$S"}, read=missing)


def plain(value: Value) -> object:
    """A value without its places."""
    inner = value.value
    if isinstance(inner, Section):
        return {entry.key: plain(entry.value) for entry in inner}
    if isinstance(inner, list):
        return [plain(each) for each in inner]
    return inner


@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join) | st.text())
@example("a: " + "[" * 5000)
@example("a {" * 5000)
@example("a: $S")
def test_any_text_is_read_or_refused(text: str) -> None:
    told = ""
    try:
        read(text)
    except ConfigError as error:
        told = str(error)
    assert not told or told.startswith("file:")


_SCALARS = (
    st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=20)
)
_KEYS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=20,
)
_DOCUMENTS = st.dictionaries(_KEYS, _TREES, min_size=1, max_size=6)


def quoted(text: str) -> str:
    """A string in double quotes with the escapes that exist."""
    escapes = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    return '"' + "".join(escapes.get(character, character) for character in text) + '"'


def written(value: object, choose: random.Random) -> str:
    """One of the ways to write a value."""
    if isinstance(value, bool):
        words = ("true", "yes", "on", "TRUE") if value else ("false", "no", "off", "Off")
        return choose.choice(words)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        between = choose.choice((", ", ",", "\n", " ,\n # comment\n"))
        return "[" + between.join(written(each, choose) for each in value) + "]"
    assert isinstance(value, dict)
    return "{\n" + written_entries(value, choose) + "}"


def written_entries(entries: dict[str, object], choose: random.Random) -> str:
    """Entries of a map, one way or the other."""
    lines = []
    for key, value in entries.items():
        separator = choose.choice((": ", "=", " = ", "\t"))
        name = choose.choice((key, f'"{key}"', f"'{key}'"))
        end = choose.choice(("\n", ",\n", ";\n", " // comment\n", " # comment\n"))
        lines.append(f"{name}{separator}{written(value, choose)}{end}")
    return "".join(lines)


@given(_DOCUMENTS, st.randoms(use_true_random=False))
def test_what_is_written_is_read(document: dict[str, object], choose: random.Random) -> None:
    text = written_entries(document, choose)
    assert plain(Value(read(text), read("a: 1").place)) == document
    assert plain(Value(read("{" + text + "}"), read("a: 1").place)) == document


@given(_DOCUMENTS)
def test_json_is_a_configuration(document: dict[str, object]) -> None:
    text = json.dumps(document, ensure_ascii=False, indent=1)
    if "\\" in text.replace('\\"', "").replace("\\\\", "").replace("\\n", "").replace("\\t", ""):
        return  # JSON's other escapes are none here
    assert plain(Value(read(text), read("a: 1").place)) == document
