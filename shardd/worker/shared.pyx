# cython: language_level=3str
"""What all connections of one worker share: its parts, its buffers, its limits, its lists.

One object per worker, made before the first connection. Connections reach everything through it,
so a connection itself holds only what is its own.
"""

cimport cython
import os
import random

from cpython.bytearray cimport PyByteArray_AS_STRING
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc

from shardd import limits
from shardd.auth.nkeys import NONCE_BYTES, make_nonce
from shardd.router.table cimport hash_key


@cython.final
cdef class Shared:
    """Owned by the worker, touched by its event loop only.

    Args:
        config: the configuration in force.
        loop: the worker's face to its event loop: `soon(callback)`, `aside(function, callback)`,
            `clock()`; after a callback everything that is to go out goes.
        quotas: what users and accounts use of the host.
        poller, outbounds, dispatcher, mesh, deadlines: the worker's parts.
        seed: for sid hashes and the jitter of first pings.
    """

    def __init__(
        self,
        object config,
        object loop,
        Quotas quotas not None,
        Poller poller not None,
        OutboundSet outbounds not None,
        Dispatcher dispatcher not None,
        Mesh mesh not None,
        Deadlines deadlines not None,
        uint64_t seed,
    ):
        self.poller = poller
        self.outbounds = outbounds
        self.dispatcher = dispatcher
        self.sublist = dispatcher.sublist
        self.mesh = mesh
        self.deadlines = deadlines
        self.slots = mesh.slots
        self.counters = mesh.slots.slot(mesh.index)
        self.quotas = quotas
        self._loop = loop
        self.random = random.Random(seed)
        self.sid_key = hash_key(seed)
        self.connections = {}
        self.deferred = []
        self.paused = []
        self.stalled = []
        self._nested = []
        self.apply(config)
        self.buffer_bytes = limits.READ_BYTES_MAX
        self.buffer = <unsigned char*>malloc(2 * self.buffer_bytes)
        if self.buffer == NULL:
            raise MemoryError

    def apply(self, config: object) -> None:
        """Copy what the hot path needs of a configuration into typed fields."""
        self.limits.control_line_max = config.max_control_line
        self.limits.payload_max = config.max_payload
        self.limits.headers = False
        self.pending_max = config.max_pending
        self.stall_at = <uint64_t>(config.max_pending * limits.STALL_SHARE)
        self.subscriptions_max = config.max_subscriptions or -1
        self.subscription_tokens_max = config.max_subscription_tokens
        self.connections_max = config.max_connections
        self.ping_interval_ms = <uint64_t>(config.ping_interval_s * 1000)
        self.first_ping_ms = min(self.ping_interval_ms, <uint64_t>(limits.FIRST_PING_S * 1000))
        self.pings_out_max = config.ping_max
        self.outbounds.write_deadline_ms = <uint64_t>(config.write_deadline_s * 1000)
        self.drops_instead_of_stalling = config.no_fast_producer_stall
        self.has_headers = not config.no_header_support
        self.is_tracing = config.trace
        self.is_balancing = config.balance

    def set_gate(self, gate: object) -> None:
        """From now on clients come in by this gate."""
        self.gate = gate

    def set_guard(self, bytes prefix not None, guard: object) -> None:
        """Publishing to a subject that begins like this takes a second right:
        `guard(subject, payload)` says to which subject, or None. Clients whose user has no
        permissions are not asked."""
        self.guarded_prefix = prefix
        self.guard = guard

    def new_nonce(self) -> str:
        """Something for one client to sign (sheet 2.1)."""
        return make_nonce(os.urandom(NONCE_BYTES))

    def clock(self) -> float:
        """The time, unix seconds: when credentials end."""
        return self._loop.clock()

    def soon(self, callback: object) -> None:
        """Call in the next turn of the event loop."""
        self._loop.soon(callback)

    def check_aside(self, credentials: object, callback: object, is_wanted: object) -> None:
        """Check credentials in a thread, if that is still wanted when their turn comes;
        `callback(identity, error)` in the event loop."""
        self._loop.aside(self.gate, credentials, callback, is_wanted)

    def __dealloc__(self):
        free(self.buffer)
        free(self.scratch)
        free(self.plain_scratch)
        free(self.head_scratch)

    cdef unsigned char* scratch_for(self, size_t length) except NULL:
        """Room for a tail that has to be rebuilt; good for one message."""
        if length > self.scratch_bytes:
            self.scratch = _grown(self.scratch, length)
            self.scratch_bytes = length
        return self.scratch

    cdef unsigned char* plain_scratch_for(self, size_t length) except NULL:
        """Room for a tail without its headers; good for one message. A message that is published
        inside the delivery of another one has room of its own: the other's is still in use."""
        cdef uint32_t depth = self.dispatcher.nesting
        cdef bytearray room
        if depth:
            while <uint32_t>len(self._nested) < depth:
                self._nested.append(bytearray())
            room = self._nested[depth - 1]
            if <size_t>len(room) < length:
                room = self._nested[depth - 1] = bytearray(length)
            return <unsigned char*>PyByteArray_AS_STRING(room)
        if length > self.plain_scratch_bytes:
            self.plain_scratch = _grown(self.plain_scratch, length)
            self.plain_scratch_bytes = length
        return self.plain_scratch

    cdef unsigned char* head_for(self, size_t length) except NULL:
        """Room for verb, subject and sid of one delivery."""
        if length > self.head_scratch_bytes:
            self.head_scratch = _grown(self.head_scratch, length)
            self.head_scratch_bytes = length
        return self.head_scratch

    def tick(self) -> None:
        """Act on deadlines that have passed, and show what other parts have counted."""
        self.poller.read_clock()
        self.mesh.now_ms = self.poller.now_ms
        self.deadlines.sweep(self.poller.now_ms)
        # The page keeps what earlier processes of this slot have counted.
        self.counters.ring_stalls += self.dispatcher.ring_stalls - self._shown[0]
        self.counters.ring_bytes += self.dispatcher.ring_bytes - self._shown[1]
        self.counters.oversize_messages += self.dispatcher.oversize_messages - self._shown[2]
        self.counters.redirected += self.dispatcher.handed_on - self._shown[3]
        self._shown[0] = self.dispatcher.ring_stalls
        self._shown[1] = self.dispatcher.ring_bytes
        self._shown[2] = self.dispatcher.oversize_messages
        self._shown[3] = self.dispatcher.handed_on

    cdef uint64_t host_connections(self) noexcept:
        """Connections of the whole host, this worker's included."""
        cdef uint64_t total = 0
        cdef uint32_t index
        for index in range(self.slots.count):
            total += self.slots.slot(index).connections
        return total


cdef unsigned char* _grown(unsigned char* old, size_t length) except NULL:
    cdef unsigned char* room = <unsigned char*>realloc(old, length)
    if room == NULL:
        raise MemoryError
    return room
