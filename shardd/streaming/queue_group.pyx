# cython: language_level=3str
"""The members of one queue group and how far they are together (sheet 6, 7).

Each message goes to one member, the least busy. Who leaves hands what it has in flight to those who
stay. Of a durable group something remains when the last member has gone, for the next one to join.
"""

cimport cython

from shardd.streaming.inflight cimport InFlight

# How long after a member has left its messages are sent again (sheet 6).
cdef enum:
    DEAL_OUT_MS = 100


@cython.final
cdef class QueueGroup:
    """One queue group of one channel."""

    def __init__(self, str name not None, bint is_durable, uint64_t last_sent) -> None:
        self.name = name
        self.is_durable = is_durable
        self.last_sent = last_sent
        self.members = []

    cdef Subscription pick(self):
        """Of those that are not stalled and answer heartbeats the one with the least in flight;
        when there is none, the first. The first in the list goes to the end when it is picked."""
        cdef Subscription member
        cdef Subscription best = None
        cdef Subscription first = None
        cdef Py_ssize_t index = -1
        cdef Py_ssize_t best_index = -1
        cdef Py_ssize_t first_index = -1
        for member in self.members:
            index += 1
            if not member.is_started:
                continue
            if first is None:
                first = member
                first_index = index
            if member.is_failing or member.in_flight.count >= member.max_in_flight:
                continue
            if best is None or member.in_flight.count < best.in_flight.count:
                best = member
                best_index = index
        if best is None:
            best = first
            best_index = first_index
        if best_index == 0 and index > 0:
            self.members.append(self.members.pop(0))
        return best

    cdef uint64_t in_flight(self) except? -1:
        cdef Subscription member
        cdef uint64_t count = 0
        for member in self.members:
            count += member.in_flight.count
        return count

    cdef bint ack(self, uint64_t sequence) except -1:
        cdef Subscription member
        for member in self.members:
            if member.in_flight.remove(sequence):
                member.note_moved()
                return True
        return False

    def join(self, Subscription member not None) -> None:
        """One more. The first one goes on with what remained of those before."""
        member.group = self
        if self.remains is not None:
            member.take_over(self.remains)
            self.remains = None
        self.members.append(member)

    def leave(self, Subscription member not None, long long now_ms) -> bool:
        """One less; False when it was the last. What it had in flight goes round among those who
        stay, and is sent again soon."""
        cdef InFlight leaving = member.in_flight
        cdef Subscription other
        cdef Py_ssize_t turn = 0
        self.members.remove(member)
        if not self.members:
            if self.is_durable:
                member.last_sent = self.last_sent
                self.remains = member
            return False
        for sequence, _, count in sorted(leaving.entries()):
            other = self.members[turn % len(self.members)]
            other.hold(sequence, now_ms + DEAL_OUT_MS, count)
            leaving.remove(sequence)
            turn += 1
        # The position of the group is kept with its members: it must not go with this one.
        other = self.members[0]
        other.note_moved()
        return True
