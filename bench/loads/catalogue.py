"""All loads, in the order in which they run."""

import fnmatch
from collections.abc import Iterator

from bench.load import Load
from bench.loads import (
    connections,
    encrypted,
    fanout,
    hosts,
    many,
    queue,
    requests,
    subjects,
    subscriptions,
)

FAMILIES = (fanout, many, subjects, queue, requests, subscriptions, connections, encrypted, hosts)


def all_loads() -> Iterator[Load]:
    """Every load of every family."""
    for family in FAMILIES:
        yield from family.loads()


def select(pattern: str) -> list[Load]:
    """The loads whose name matches one of the comma-separated shell patterns."""
    wanted = [each.strip() for each in pattern.split(",")]
    return [
        load for load in all_loads() if any(fnmatch.fnmatchcase(load.name, each) for each in wanted)
    ]
