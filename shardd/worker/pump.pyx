# cython: language_level=3str
"""One pass of a worker: clients in, rings in, then interest and messages out.

The event loop calls `run` when the worker's epoll set has something: a client's bytes, a new
connection, or the doorbell. A pass gives every ready source one turn, reads a share of every peer's
ring, and finishes: the open batch leaves, backlogs move on, answers that waited go, and every
client that got something is written to once.

Before it returns to the event loop the worker falls asleep in the sense of the doorbell: it says
so, then looks once more at the rings. Whoever publishes after that look rings.
"""

cimport cython
from libc.stdint cimport uint64_t

from shardd.router.bell cimport Bell
from shardd.router.doorbell cimport Doorbell
from shardd.worker.connection cimport Connection
from shardd.worker.shared cimport Shared

cdef extern from "sys/epoll.h" nogil:
    enum:
        EPOLLIN

cdef enum:
    # Passes before timers and control messages have their turn.
    PASSES_MAX = 8
    RUN_MS_MAX = 20                # the same in time, for passes that are long


@cython.final
cdef class Pump:
    """Drives one worker. Touched by its event loop only.

    Args:
        shared: the worker's parts.
        doorbell: the worker's own.
        later: `later(seconds, callback)` of the event loop.
    """

    def __init__(self, Shared shared not None, Doorbell doorbell not None, object later):
        self.shared = shared
        self._doorbell = doorbell
        self._later = later
        self._bell = Bell(doorbell)
        shared.poller.add(self._bell, EPOLLIN)

    def run(self) -> None:
        """Work until nothing is at hand, or until others of the event loop must have a turn."""
        cdef int passes = 0
        cdef uint64_t until_ms
        self._doorbell.wake_up()
        self.shared.poller.read_clock()
        until_ms = self.shared.poller.now_ms + RUN_MS_MAX
        while passes < PASSES_MAX and self.shared.poller.now_ms < until_ms:
            passes += 1
            if self._pass() == 0:
                self._doorbell.fall_asleep()
                if not self.shared.mesh.has_work() and not self._has_answers():
                    return
                self._doorbell.wake_up()
        self._doorbell.fall_asleep()
        if self.shared.mesh.has_work() or self._has_answers():
            self._doorbell.ring_always()

    cdef bint _has_answers(self) except -1:
        """Whether answers that waited may go by now: a peer that applied interest while this
        worker was awake did not ring."""
        return bool(self.shared.deferred) and self.shared.mesh.is_applied(
            self.shared.mesh.sequence)

    cdef int _pass(self) except -1:
        cdef int handled = self.shared.poller.dispatch()
        self.shared.mesh.now_ms = self.shared.poller.now_ms
        handled += self.shared.mesh.drain()
        self._finish()
        return handled

    def finish(self) -> None:
        """End what a timer or a control message began: everything that is to go out, goes."""
        self._finish()
        if self.shared.mesh.has_work():
            self._doorbell.ring_always()

    cdef int _finish(self) except -1:
        cdef Shared shared = self.shared
        cdef Connection connection
        if shared.dispatcher.is_full:
            shared.dispatcher.drain_backlog()
            if not shared.dispatcher.is_full:
                for connection in shared.paused:
                    connection.end_pause()
                shared.paused.clear()
        shared.dispatcher.commit()
        if shared.deferred:
            shared.deferred[:] = [
                connection for connection in shared.deferred
                if not (<Connection>connection).release_deferred()
            ]
        shared.outbounds.flush_dirty()
        shared.sublist.release()
        if shared.sublist.has_changes():
            # A flush that closed a connection withdrew its interest.
            shared.dispatcher.commit()
        if shared.stalled and self._stall_timer is None:
            self._stall_timer = self._later(0.002, self._on_stall_timer)

    def _on_stall_timer(self):
        self._stall_timer = None
        self.shared.poller.read_clock()
        self._end_stalls()
        self._finish()

    cdef int _end_stalls(self) except -1:
        cdef uint64_t now_ms = self.shared.poller.now_ms
        self.shared.stalled[:] = [
            connection for connection in self.shared.stalled if connection.is_stalled(now_ms)
        ]
