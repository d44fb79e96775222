# cython: language_level=3str
"""A door to the C face of deadlines and of the epoll set, for tests.

A probe is a source, and so has a deadline too; both of its events go to a Python callable.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from shardd.poller cimport Poller
from shardd.timers cimport Deadlines

from collections.abc import Callable


@cython.final
cdef class Probe(Source):
    """A source that tells a callable."""

    def __init__(
        self,
        int fd=-1,
        on_events: Callable[[int], object] | None = None,
        on_deadline: Callable[[int], object] | None = None,
    ) -> None:
        self.fd = fd
        self._on_events = on_events
        self._on_deadline = on_deadline

    @property
    def is_registered(self) -> bool:
        """Whether a poller watches it."""
        return self.poller is not None

    @property
    def watched_events(self) -> int:
        """What it is watched for."""
        return self.watched

    cdef int on_events(self, uint32_t events) except -1:
        self._on_events(events)

    cdef int on_deadline(self, uint64_t now_ms) except -1:
        self._on_deadline(now_ms)


# --- deadlines --------------------------------------------------------------------------------


def add_deadline(Deadlines deadlines not None, Probe probe not None, uint64_t time_ms) -> None:
    """`Deadlines.add`."""
    deadlines.add(probe, time_ms)


def move_deadline(Deadlines deadlines not None, Probe probe not None, uint64_t time_ms) -> None:
    """`Deadlines.move`."""
    deadlines.move(probe, time_ms)


def remove_deadline(Deadlines deadlines not None, Probe probe not None) -> None:
    """`Deadlines.remove`."""
    deadlines.remove(probe)


# --- the epoll set ----------------------------------------------------------------------------


def add_source(Poller poller not None, Probe probe not None, uint32_t events) -> None:
    """`Poller.add`."""
    poller.add(probe, events)


def watch_source(Poller poller not None, Probe probe not None, uint32_t events) -> None:
    """`Poller.watch`."""
    poller.watch(probe, events)


def remove_source(Poller poller not None, Probe probe not None) -> None:
    """`Poller.remove`."""
    poller.remove(probe)


def dispatch(Poller poller not None) -> int:
    """`Poller.dispatch`: one pass; returns how many sources were ready."""
    return poller.dispatch()
