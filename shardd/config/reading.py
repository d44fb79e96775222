"""Typed access to a configuration tree: sections by their keys, values by their kind.

Whoever reads a block hands in what each of its keys means. What is not known is refused, unless
some value refers to it as a variable. Messages name the key's place and never a value that could
be a secret.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from shardd.config.tree import Entry, Place, Section, Value
from shardd.values import parse_duration

Reader = Callable[[Entry], None]

_PORT: Final = re.compile(r"-?[0-9]{1,9}", re.ASCII)

_KINDS: Mapping[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    datetime: "a date",
    Section: "a block",
}


@dataclass(slots=True)
class Notes:
    """What the operator should know of a configuration that is valid all the same."""

    warnings: list[str] = field(default_factory=list)
    # Numbers where durations belong: they mean seconds, but a check of the file fails.
    conversions: list[str] = field(default_factory=list)


def read_section(section: Section, readers: Mapping[str, Reader]) -> None:
    """Hands each entry to its key's reader. Raises ConfigError for a key that is unknown."""
    for entry in section:
        reader = readers.get(entry.key.lower())
        if reader is not None:
            reader(entry)
        elif not entry.is_variable:
            raise entry.place.error(f'unknown field "{entry.key}"')


def section_of(entry: Entry) -> Section:
    """The block that has to stand here."""
    value = entry.value.value
    if not isinstance(value, Section):
        raise mismatch(entry.place, entry.key, "a block", entry.value)
    return value


def list_of(entry: Entry) -> list[Value]:
    """The list that has to stand here."""
    value = entry.value.value
    if not isinstance(value, list):
        raise mismatch(entry.place, entry.key, "a list", entry.value)
    return value


def text_of(entry: Entry) -> str:
    """The string that has to stand here. What looks like a number has to be quoted to be one."""
    value = entry.value.value
    if not isinstance(value, str):
        raise mismatch(entry.place, entry.key, "a string", entry.value)
    return value


def integer_of(entry: Entry) -> int:
    """The integer that has to stand here."""
    value = entry.value.value
    if isinstance(value, bool) or not isinstance(value, int):
        raise mismatch(entry.place, entry.key, "an integer", entry.value)
    return value


def boolean_of(entry: Entry) -> bool:
    """The boolean that has to stand here."""
    value = entry.value.value
    if not isinstance(value, bool):
        raise mismatch(entry.place, entry.key, "a boolean", entry.value)
    return value


def duration_of(entry: Entry, notes: Notes) -> float:
    """Seconds: a duration as text, or a number, which is let pass with a warning."""
    value = entry.value.value
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ValueError as error:
            raise entry.place.error(f"{entry.key}: {error}") from None
    if isinstance(value, bool) or not isinstance(value, int):
        raise mismatch(entry.place, entry.key, "a duration", entry.value)
    place = entry.place
    notes.conversions.append(
        f'{place.file}:{place.line}:{place.column}: invalid use of field "{entry.key}":'
        f" {entry.key} should be converted to a duration"
    )
    return float(value)


def seconds_of(entry: Entry) -> float:
    """Seconds: a number of them, with or without a fraction, or a duration as text."""
    value = entry.value.value
    if isinstance(value, str):
        try:
            return parse_duration(value)
        except ValueError as error:
            raise entry.place.error(f"{entry.key}: {error}") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise mismatch(entry.place, entry.key, "a number of seconds", entry.value)
    return float(value)


def texts_of(entry: Entry) -> tuple[str, ...]:
    """A list of strings, or one string."""
    value = entry.value.value
    if isinstance(value, str):
        return (value,)
    return tuple(text_of(Entry(entry.key, item, item.place)) for item in list_of(entry))


def listen_of(entry: Entry) -> dict[str, Any]:
    """`host` and `port` of a listen address: a port alone, or host and port."""
    value = entry.value.value
    if isinstance(value, int) and not isinstance(value, bool):
        return {"port": value}
    text = text_of(entry)
    host, colon, port = text.rpartition(":")
    is_bare = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if not colon or is_bare or not _PORT.fullmatch(port):
        raise entry.place.error(f'could not parse address string "{text}"')
    return {"host": host, "port": int(port)} if host else {"port": int(port)}


def integer_below(limit: int, lowest: int | None = None) -> Callable[[Entry], int]:
    """A reader of integers that nats-server keeps in fewer bits."""

    def read(entry: Entry) -> int:
        number = integer_of(entry)
        if number >= limit:
            raise entry.place.error(f"{entry.key} value is too big")
        if lowest is not None and number < lowest:
            raise entry.place.error(f"{entry.key} value can not be negative")
        return number

    return read


def write_timeout_of(entry: Entry) -> str:
    """What happens to a peer that takes no byte in time."""
    text = text_of(entry)
    if text.lower() not in ("default", "close", "retry"):
        raise entry.place.error(f"{entry.key} must be 'default', 'close' or 'retry'")
    return text


def mismatch(place: Place, key: str, expected: str, value: Value) -> Exception:
    """The error for a value of another kind."""
    found = _KINDS.get(type(value.value), "something else")
    hint = ""
    if expected == "a string" and isinstance(value.value, int | float | bool):
        hint = " (put it in quotes)"
    return place.error(f"{key} has to be {expected}, not {found}{hint}")


def setter(target: dict[str, Any], name: str, read: Callable[[Entry], object]) -> Reader:
    """A reader that puts a value into a dictionary of keyword arguments."""

    def reader(entry: Entry) -> None:
        target[name] = read(entry)

    return reader
