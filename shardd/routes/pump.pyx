# cython: language_level=3str
"""One pass of the router: routes in, rings in, then interest and messages out.

The counterpart of a worker's pump: it falls asleep and is woken in the same way.
"""

cimport cython
from libc.stdint cimport uint64_t

from shardd.outbound cimport OutboundSet
from shardd.poller cimport Poller
from shardd.router.bell cimport Bell
from shardd.router.doorbell cimport Doorbell
from shardd.router.mesh cimport Mesh
from shardd.routes.relay cimport Relay

cdef extern from "sys/epoll.h" nogil:
    enum:
        EPOLLIN

cdef enum:
    # Passes before timers and control messages have their turn, and the same in time.
    PASSES_MAX = 8
    RUN_MS_MAX = 20


@cython.final
cdef class Pump:
    """Drives the router. Touched by its event loop only.

    Args:
        poller, outbounds: of its routes.
        relay, mesh: of this process.
        doorbell: its own.
        on_room: called when the ring has room again after it was full.
    """

    def __init__(
        self,
        Poller poller not None,
        OutboundSet outbounds not None,
        Relay relay not None,
        Mesh mesh not None,
        Doorbell doorbell not None,
        object on_room,
    ):
        self.poller = poller
        self.outbounds = outbounds
        self._relay = relay
        self._mesh = mesh
        self._doorbell = doorbell
        self._on_room = on_room
        self._bell = Bell(doorbell)
        poller.add(self._bell, EPOLLIN)

    def run(self) -> None:
        """Work until nothing is at hand, or until others of the event loop must have a turn."""
        cdef int passes = 0
        cdef uint64_t until_ms
        self._doorbell.wake_up()
        self.poller.read_clock()
        until_ms = self.poller.now_ms + RUN_MS_MAX
        while passes < PASSES_MAX and self.poller.now_ms < until_ms:
            passes += 1
            if self._pass() == 0:
                self._doorbell.fall_asleep()
                if not self._mesh.has_work() and not self._relay.has_answers():
                    return
                self._doorbell.wake_up()
        self._doorbell.fall_asleep()
        if self._mesh.has_work() or self._relay.has_answers():
            self._doorbell.ring_always()

    cdef int _pass(self) except -1:
        cdef int handled = self.poller.dispatch()
        self._mesh.now_ms = self.poller.now_ms
        handled += self._mesh.drain()
        self._finish()
        return handled

    def finish(self) -> None:
        """End what a timer or a control message began: everything that is to go out, goes."""
        self._finish()
        if self._mesh.has_work():
            self._doorbell.ring_always()

    cdef int _finish(self) except -1:
        cdef Relay relay = self._relay
        if relay.is_full:
            self._was_full = True
            relay.drain_backlog()
        if self._was_full and not relay.is_full:
            self._was_full = False
            self._on_room()
        if relay.sublist.has_changes():
            relay.tell()
        relay.commit()
        if relay._waiting:
            relay.answer()
        self.outbounds.flush_dirty()
        relay.sublist.release()
        relay.offered.release()
        if relay.offered.has_changes():
            # A flush that closed a route withdrew what it wanted.
            relay.commit()

    def read_clock(self) -> None:
        """What a timer does first."""
        self.poller.read_clock()
        self._mesh.now_ms = self.poller.now_ms
