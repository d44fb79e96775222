# cython: language_level=3str
"""The page that all processes of a host share: one slot per process, and the host's epoch.

A slot says which process lives in it, in which state, how far it has announced its own interest
and applied its peers', and counts what it did. A slot is written by its own process; the
supervisor also writes it when it forks and reaps, that is, while nobody lives in it.

Two handshakes between processes rest on this page, and both are of the same kind: each side
first writes its own field, then looks at the other's, with a full fence between, so that at least
one of them sees the other.

- A process announces a change of its interest, then looks at who is ready and waits for those. A
  joiner becomes ready, then looks at what each peer has announced and applies that. Either the
  first one waits for the joiner, or the joiner finds the change. (`set_announced`, `set_state`.)
- The doorbell's flag, in `router.doorbell`.

The interest sequence of a slot goes on over its incarnations (`reset` keeps `announced`): a peer
that has applied 500 of the dead one must not seem to have applied 1 of the next one.
"""

import enum

from shardd.errors import BootError, InternalError
from shardd.limits import PROCESSES_MAX

cdef extern from "router/ring_atomic.h" nogil:
    uint64_t atomic_load_u64(const uint64_t* field)
    uint32_t atomic_load_u32(const uint32_t* field)
    void atomic_store_u64(uint64_t* field, uint64_t value)
    void atomic_store_u32(uint32_t* field, uint32_t value)
    uint64_t atomic_load_relaxed_u64(const uint64_t* field)
    void atomic_store_relaxed_u64(uint64_t* field, uint64_t value)
    uint64_t atomic_add_u64(uint64_t* field, uint64_t value)
    void atomic_fence()

cdef enum:
    LAYOUT_VERSION = 1
    LINE_BYTES = 64
    COUNTERS = 15              # uint64_t fields from `connections` to `loop_late_us`
    SLOTS_MAX = 64             # bits of a process mask, length of Slot.applied

cdef uint64_t MAGIC = 0x65676170_64726873  # "shrdpage", as little-endian bytes

# In the order of the fields of Slot.
COUNTER_NAMES = (
    "connections",
    "connections_total",
    "subscriptions",
    "messages_in",
    "bytes_in",
    "messages_out",
    "bytes_out",
    "slow_consumers",
    "stale_connections",
    "stalled_clients",
    "ring_stalls",
    "ring_bytes",
    "oversize_messages",
    "redirected",
    "loop_late_us",
)


class SlotState(enum.IntEnum):
    """What the process of a slot is doing."""

    EMPTY = STATE_EMPTY
    BOOTING = STATE_BOOTING
    JOINED = STATE_JOINED
    READY = STATE_READY
    STOPPING = STATE_STOPPING


# `State` is the name of the C enum in this module, so the class statement cannot have it.
SlotState.__name__ = SlotState.__qualname__ = "State"
globals()["State"] = SlotState


cdef int _check_layout() except -1:
    """Each slot keeps to its own cache lines, and the counters stand as they are named."""
    cdef Slot slot
    if (
        sizeof(Slot) % LINE_BYTES
        or sizeof(HostPage) % LINE_BYTES
        or <char*>&slot.is_asleep - <char*>&slot != LINE_BYTES
        or <char*>&slot.connections - <char*>&slot != 2 * LINE_BYTES
        or &slot.loop_late_us - &slot.connections != COUNTERS - 1
        or len(COUNTER_NAMES) != COUNTERS
        or sizeof(slot.applied) != SLOTS_MAX * sizeof(uint64_t)
        or PROCESSES_MAX != SLOTS_MAX
    ):
        raise InternalError("the layout of the shared page is not what this build expects")
    return 0


_check_layout()


cdef class Slots:
    """All slots of a host. Made by the supervisor before the first fork, inherited by all."""

    def __cinit__(self, count: int) -> None:
        if not 1 <= count <= SLOTS_MAX:
            raise BootError(f"{count} processes: a host has between 1 and {SLOTS_MAX}")
        self.count = count
        self._segment = Segment(sizeof(HostPage) + self.count * sizeof(Slot))
        self.page = <HostPage*>self._segment.address
        self.page.magic = MAGIC
        self.page.version = LAYOUT_VERSION
        self.page.slots = self.count

    cdef Slot* slot(self, uint32_t index) noexcept nogil:
        if index >= self.count:
            return NULL
        return <Slot*>(self.page + 1) + index

    cdef Slot* _checked(self, uint32_t index) except NULL:
        if index >= self.count:
            raise IndexError(f"slot {index} of {self.count}")
        return <Slot*>(self.page + 1) + index

    def check(self) -> None:
        """Raises InternalError unless the page still has this build's header."""
        if (
            self.page.magic != MAGIC
            or self.page.version != LAYOUT_VERSION
            or self.page.slots != self.count
        ):
            raise InternalError("the shared page has a damaged header or another layout")

    # --- life ---------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """Grows when any slot's state or incarnation changes."""
        # Acquire, with the release in `bump_epoch`: whoever sees the epoch sees the change.
        return atomic_load_u64(&self.page.epoch)

    def bump_epoch(self) -> int:
        """Counts a change that all processes should look at; returns the new epoch."""
        # Acquire and release: several processes count here, and each one's change must be visible
        # to the reader of `epoch` even when another process counts after it.
        return atomic_add_u64(&self.page.epoch, 1)

    def state(self, uint32_t index) -> SlotState:
        """What the process of this slot is doing."""
        # Acquire, with the release in `set_state`: what it did before it got there is visible.
        return SlotState(atomic_load_u32(&self._checked(index).state))

    def set_state(self, uint32_t index, state: int) -> None:
        """Changes the state, and the epoch with it."""
        cdef uint32_t number = SlotState(state)
        # Release, with the acquire in `state`, `ready` and `lagging`.
        atomic_store_u32(&self._checked(index).state, number)
        self.bump_epoch()
        # Full fence: the caller now looks at what its peers have announced. Its partner is the
        # fence in `set_announced`; without both, each could miss the other's store.
        atomic_fence()

    def incarnation(self, uint32_t index) -> int:
        """How many processes have been forked into this slot."""
        # Acquire, with the release in `reset`: the rest of the reset is visible with it.
        return atomic_load_u32(&self._checked(index).incarnation)

    def pid(self, uint32_t index) -> int:
        """The process in this slot, 0 when there is none."""
        return self._checked(index).pid

    def set_pid(self, uint32_t index, pid: int) -> None:
        """Says which process lives here; only the supervisor reads it."""
        self._checked(index).pid = pid

    def heartbeat(self, uint32_t index) -> int:
        """Ticks of the process in this slot."""
        # Relaxed: only whether it changed matters.
        return atomic_load_relaxed_u64(&self._checked(index).heartbeat)

    def beat(self, uint32_t index) -> None:
        """One tick of this slot's own process."""
        cdef Slot* slot = self._checked(index)
        # Relaxed: one writer, and nothing else is read through it.
        atomic_store_relaxed_u64(&slot.heartbeat, slot.heartbeat + 1)

    def reset(self, uint32_t index, pid: int) -> int:
        """The supervisor prepares an empty slot for a fork; returns the new incarnation."""
        cdef Slot* slot = self._checked(index)
        cdef uint32_t incarnation = slot.incarnation + 1
        cdef Py_ssize_t peer
        slot.pid = pid
        atomic_store_relaxed_u64(&slot.heartbeat, 0)
        self._forget_living(slot)
        for peer in range(SLOTS_MAX):
            # Relaxed: ordered for the readers by the stores of state and incarnation below.
            atomic_store_relaxed_u64(&slot.applied[peer], 0)
        # Release, with the acquire in `incarnation`: the new number is seen with all of the above.
        atomic_store_u32(&slot.incarnation, incarnation)
        self.set_state(index, STATE_BOOTING)
        return incarnation

    def clear(self, uint32_t index) -> None:
        """The supervisor has reaped the process of this slot."""
        cdef Slot* slot = self._checked(index)
        slot.pid = 0
        self._forget_living(slot)
        self.set_state(index, STATE_EMPTY)

    cdef int _forget_living(self, Slot* slot) except -1:
        """What a dead process no longer has. What it did stays counted in the host's totals."""
        # Relaxed: nobody lives in the slot; readers are ordered by the store of the state.
        atomic_store_relaxed_u64(&slot.connections, 0)
        atomic_store_relaxed_u64(&slot.subscriptions, 0)
        # Release, as every store to this flag; a peer that still reads an old value writes one
        # wake-up too many. The sleeps go on counting, so that no number is used twice.
        atomic_store_u32(&slot.is_asleep, 0)
        return 0

    cdef void add_incoming(self, uint32_t index, int64_t count) noexcept nogil:
        """Any process may add to it, the slot's own takes off: hence atomic, with no order, as it
        is only a hint to whoever accepts the next connection."""
        atomic_add_u64(&self.slot(index).incoming, <uint64_t>count)

    cpdef uint64_t ready(self) noexcept nogil:
        """Bit mask of the slots whose process is ready."""
        cdef uint64_t mask = 0
        cdef uint32_t index
        for index in range(self.count):
            # Acquire, with the release in `set_state`.
            if atomic_load_u32(&self.slot(index).state) == STATE_READY:
                mask |= <uint64_t>1 << index
        return mask

    # --- interest -----------------------------------------------------------------------------

    def announced(self, uint32_t index) -> int:
        """The last interest sequence this slot's process has announced."""
        # Acquire, with the release in `set_announced`.
        return atomic_load_u64(&self._checked(index).announced)

    def set_announced(self, uint32_t index, sequence: int) -> None:
        """This slot's own process has announced its interest up to `sequence`."""
        # Release, with the acquire in `announced`.
        atomic_store_u64(&self._checked(index).announced, sequence)
        # Full fence: the caller now looks at who is ready. Its partner is the fence in
        # `set_state`; without both, each could miss the other's store.
        atomic_fence()

    def applied(self, uint32_t index, uint32_t peer) -> int:
        """How much of the interest of `peer` the process in slot `index` has applied."""
        self._checked(peer)
        # Acquire, with the release in `set_applied`: it now matches by that interest.
        return atomic_load_u64(&self._checked(index).applied[peer])

    def set_applied(self, uint32_t index, uint32_t peer, sequence: int) -> None:
        """The process in slot `index` has applied the interest of `peer` up to `sequence`."""
        self._checked(peer)
        # Release, with the acquire in `applied` and `lagging`.
        atomic_store_u64(&self._checked(index).applied[peer], sequence)

    cpdef uint64_t lagging(self, uint32_t index, uint64_t sequence) noexcept nogil:
        """Bit mask of the ready slots, but `index`, that have applied less than `sequence` of it.

        Called after `set_announced`. A peer that becomes ready later finds the announcement.
        """
        cdef uint64_t mask = 0
        cdef uint32_t peer
        cdef Slot* slot
        if index >= self.count:
            return 0
        for peer in range(self.count):
            slot = self.slot(peer)
            # Acquire both, with the releases in `set_state` and `set_applied`.
            if (
                peer != index
                and atomic_load_u32(&slot.state) == STATE_READY
                and atomic_load_u64(&slot.applied[index]) < sequence
            ):
                mask |= <uint64_t>1 << peer
        return mask

    # --- counters -----------------------------------------------------------------------------

    def add(self, uint32_t index, name: str, amount: int) -> None:
        """Counts in this slot's own process, off the hot path; `amount` may be negative."""
        cdef Py_ssize_t number = COUNTER_NAMES.index(name)
        cdef uint64_t* field = &self._checked(index).connections + number
        cdef int64_t difference = amount
        # Relaxed: one writer; readers only sum.
        atomic_store_relaxed_u64(field, field[0] + <uint64_t>difference)

    def counters(self, uint32_t index) -> dict[str, int]:
        """What the process of this slot counts, by name."""
        cdef uint64_t* fields = &self._checked(index).connections
        # Relaxed: each number is good by itself, and may be a moment old.
        return {
            name: atomic_load_relaxed_u64(&fields[number])
            for number, name in enumerate(COUNTER_NAMES)
        }

    def totals(self) -> dict[str, int]:
        """The counters summed over the host, those of ended processes included."""
        sums = dict.fromkeys(COUNTER_NAMES, 0)
        for index in range(self.count):
            for name, value in self.counters(index).items():
                sums[name] += value
        return sums

    def poke(self, *, magic: int) -> None:
        """Damages the header, for tests of `check`."""
        self.page.magic = magic
