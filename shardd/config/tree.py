"""A configuration file as it was read: values that know where they stand.

The parser makes this tree, the loader reads it. Nothing here knows a key's name. A message about a
value begins with its place, `file:line:column`, as nats-server's do.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime

from shardd.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in a file. Lines count from 1; columns as nats-server counts them."""

    file: str
    line: int
    column: int

    def error(self, message: str) -> ConfigError:
        """The error for something that stands here."""
        return ConfigError(f"{self.file}:{self.line}:{self.column}: {message}")


Scalar = str | int | float | bool | datetime


@dataclass(slots=True)
class Value:
    """One value. `value` is a scalar, a list of values, or a section."""

    value: "Scalar | list[Value] | Section"
    place: Place
    # The number as written, where it had a suffix ("2m" is 2000000): durations warn of it.
    suffixed: str = ""


@dataclass(slots=True)
class Entry:
    """One key of a section with its value; `place` is the key's."""

    key: str  # as written
    value: Value
    place: Place
    is_variable: bool = False  # some value refers to it: then it need not be a setting


@dataclass(slots=True)
class Section:
    """A map. Keys are compared without case; of two alike the last one wins."""

    place: Place
    entries: dict[str, Entry] = field(default_factory=dict)  # by lower-case key

    def __iter__(self) -> Iterator[Entry]:
        return iter(self.entries.values())
