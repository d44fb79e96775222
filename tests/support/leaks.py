"""What a test must not leave behind in the test process: children and open descriptors.

Servers that a fixture keeps for later tests are known to ``broker.KEPT_PIDS`` and not counted.
"""

import contextlib
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker import KEPT_PIDS


def open_descriptors() -> dict[int, str]:
    """Every descriptor of this process and what it points at, but for the standard streams.

    pytest points those elsewhere whenever it captures output.
    """
    found = {}
    for name in set(os.listdir("/proc/self/fd")) - {"0", "1", "2"}:
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the listing's own descriptor
    return found


def child_processes() -> set[int]:
    """The children of this process that no fixture keeps on purpose."""
    pids: set[int] = set()
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
            pids.update(int(text) for text in path.read_text().split())
    return pids - KEPT_PIDS


@pytest.fixture
def no_leaks() -> Iterator[None]:
    """Fail the test if it left a child process or a descriptor behind."""
    descriptors = open_descriptors()
    children = child_processes()
    yield
    leaked = _new_descriptors(descriptors)
    if leaked:
        gc.collect()  # a closed event loop lets go of its descriptors with its last reference
        leaked = _new_descriptors(descriptors)
    assert not leaked, f"descriptors left open: {leaked}"
    new_children = child_processes() - children
    assert not new_children, f"child processes left behind: {new_children}"


def _new_descriptors(before: dict[int, str]) -> dict[int, str]:
    return {
        number: target
        for number, target in open_descriptors().items()
        if before.get(number) != target
    }
