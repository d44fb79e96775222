"""This process among the others of its host: the C face."""

from libc.stdint cimport uint32_t, uint64_t

from shardd.outbound cimport OutboundSet
from shardd.router.dispatch cimport Dispatcher
from shardd.router.doorbell cimport Doorbell
from shardd.router.frame cimport RecordHeader
from shardd.router.ring cimport Consumer, Producer, Ring
from shardd.slots cimport Slots

# Another process, as this one knows it.
cdef class Peer:
    cdef readonly uint32_t slot
    cdef readonly uint32_t incarnation
    cdef readonly bint is_attached         # it reads this process's ring, its snapshot is sent
    cdef readonly bint is_known            # its snapshot has been applied: its ring is read
    cdef readonly uint64_t applied         # its last interest sequence applied here
    cdef Consumer consumer
    cdef size_t offset                     # into the records of the batch at hand
    cdef dict oversize                     # bodies that came before their records, by number
    cdef bint is_blocked                   # its batch waits for a control message
    cdef bint is_waiting                   # the same, also after a message that was another one
    cdef uint64_t own_beats                # heartbeats of both processes when it began to wait
    cdef uint64_t peer_beats
    cdef dict stalls                       # its clients to be held back, and for how long; or None
    cdef uint64_t bytes_read               # in this turn: what that is measured against

cdef class Mesh:
    cdef readonly uint32_t index
    cdef readonly uint32_t incarnation
    cdef readonly uint64_t sequence        # of the last interest announced
    cdef readonly Slots slots
    cdef readonly Dispatcher dispatcher
    cdef Producer _producer
    cdef OutboundSet _outbounds            # whose loans are returned before a ring moves on
    cdef object _rings
    cdef list _doorbells
    cdef list _peers                       # Peer or None, by slot
    cdef list _reading                     # the peers whose rings are read
    cdef object _post
    cdef object _news                      # what was made known last
    cdef uint64_t _epoch
    cdef public uint64_t now_ms            # the clock of this pass, handed in

    cdef int drain(self) except -1
    cdef int catch_up(self) except -1
    cdef bint has_work(self) except -1
    cdef bint is_applied(self, uint64_t sequence) except -1

    cdef int _drain_peer(self, Peer peer, bint is_last) except -1
    cdef int _read_batch(
        self, Peer peer, const unsigned char* records, uint32_t length
    ) except -1
    cdef int _receive(self, Peer peer, const RecordHeader* header, bytes body) except -1
    cdef int _drop(self, Peer peer) except -1
    cdef int _note_stall(self, Peer peer, uint64_t client) except -1
    cdef int _tell_stalls(self, Peer peer) except -1
    cpdef ring_doorbells(self, processes)
