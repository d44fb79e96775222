# cython: language_level=3str
"""This process among the others of its host: who lives, what they want, what they sent.

Sans-IO: messages to other processes leave through a `Post` that is handed in, messages from them
come in by `on_message`, the clock is a field; ring, page and doorbells are plain memory and
descriptors. So several meshes can live in one process and be driven through any schedule.

Joining. A process that has bound its control socket sets its slot to JOINED. Every other one
then connects to it and sends it a snapshot of the interest it has announced, in parts; with the
last part it attaches the newcomer to its ring. Once a process has every peer's snapshot it becomes
READY, and may accept clients when it has applied all that was announced until then.

Interest. Changes are announced with a sequence number, in order, to every peer. A peer notes in
the shared page how far it has applied them. Two rules rest on that number: a batch of a ring is
not opened before its sender's interest of that time is applied (rule 2), and a PONG waits until
every READY peer has applied what was announced before it (rule 1). The race between a process that
becomes ready and one that announces is decided by full fences on both sides: either the announcer
sees the newcomer READY and waits for it, or the newcomer sees the number and applies it first.

Leaving. The supervisor empties the slot of a process that died and bumps the epoch. Its peers read
its ring to the end, then withdraw its interest and detach it from theirs (rule 6). A successor is
a new incarnation; what the old one announced is never mixed with it.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from shardd import limits
from shardd.errors import InternalError

from shardd.outbound cimport OutboundSet
from shardd.router.dispatch cimport Dispatcher
from shardd.router.doorbell cimport Doorbell
from shardd.router.frame cimport (
    MESSAGE_IS_LENT,
    RECORD_OVERSIZE,
    Message,
    Origin,
    RecordHeader,
    read_origin,
    read_record,
)
from shardd.router.ring cimport Batch, Consumer
from shardd.slots cimport STATE_EMPTY, STATE_JOINED, STATE_READY, Slots

# Kinds of messages between processes: (kind, sender, its incarnation, two fields of the kind).
INTEREST = 1      # sequence of the last part, None before it; entries
SNAPSHOT = 2      # sequence of the last part, None before it; entries
OVERSIZE = 3      # number, record
STALL = 4         # client, milliseconds
NEWS = 5          # what one process makes known to all, in its own words; nothing

SNAPSHOT_ENTRIES = limits.SNAPSHOT_ENTRIES
cdef uint64_t READ_BYTES_STALLED = limits.READ_BYTES_STALLED
cdef uint64_t STALL_MS_MAX = limits.STALL_MS_MAX

cdef enum:
    # Batches of one peer handled before the others have their turn.
    BATCHES_MAX = 32
    # A control message that has not come after so many heartbeats of both sides will not come. It
    # may well come while one of them stands still, which is for the supervisor to end.
    STUCK_BEATS = 200


@cython.final
cdef class Peer:
    """Another process. Belongs to one `Mesh`."""

    def __init__(self, uint32_t slot, uint32_t incarnation, Consumer consumer):
        self.slot = slot
        self.incarnation = incarnation
        self.consumer = consumer
        self.oversize = {}


@cython.final
cdef class Mesh:
    """The mesh as one process sees it. Touched by its event loop only.

    Args:
        slots: the shared page; the own slot is BOOTING.
        rings: one per slot; the own one is written by the dispatcher's producer.
        doorbells: one per slot.
        index: the own slot.
        dispatcher: gets the records of other processes.
        post: carries messages: `send(slots, message)`, `connect(slot, incarnation)`,
            `disconnect(slot)`, `later(callback)`, `stall(client, milliseconds)`, `news(content)`.
        outbounds: the outputs that records of a ring may be lent to; None: none are.
    """

    def __init__(
        self,
        Slots slots not None,
        object rings,
        list doorbells not None,
        uint32_t index,
        Dispatcher dispatcher not None,
        object post,
        OutboundSet outbounds=None,
    ):
        self.slots = slots
        self.index = index
        self.incarnation = slots.incarnation(index)
        self.sequence = slots.announced(index)
        self.dispatcher = dispatcher
        self._producer = dispatcher.producer
        self._rings = rings
        self._doorbells = doorbells
        self._peers = [None] * slots.count
        self._reading = []
        self._post = post
        self._outbounds = outbounds
        self._epoch = 0
        dispatcher.bind(self)

    # --- life ----------------------------------------------------------------------------------

    def join(self) -> None:
        """Become visible to the others. The control socket is bound."""
        self._set_state(STATE_JOINED)
        self.check_members()

    def _set_state(self, uint32_t state):
        self.slots.set_state(self.index, state)
        self.ring_doorbells(~<uint64_t>0)

    def check_members(self) -> None:
        """Compare the slots with the peers known, after the epoch moved."""
        cdef Peer peer
        cdef uint32_t slot, state, incarnation
        self._epoch = self.slots.epoch
        for slot in range(self.slots.count):
            if slot == self.index:
                continue
            state = self.slots.state(slot)
            incarnation = self.slots.incarnation(slot)
            peer = self._peers[slot]
            if peer is not None and (state == STATE_EMPTY or peer.incarnation != incarnation):
                self._drop(peer)
                peer = None
            if peer is None and state >= STATE_JOINED:
                self._greet(slot, incarnation)

    def _greet(self, uint32_t slot, uint32_t incarnation):
        """A process has joined: connect to it and begin to tell it what is wanted here."""
        peer = Peer(slot, incarnation, Consumer(self._rings[slot], self.index, incarnation))
        self._peers[slot] = peer
        self._post.connect(slot, incarnation)
        self._send_snapshot(peer, 0)

    def _send_snapshot(self, Peer peer, long position):
        """One part of the snapshot; the next one when the event loop has had its turn."""
        if self._peers[peer.slot] is not peer:
            return
        if position == 0:
            # What is new goes to everybody first, so that the number below covers the snapshot.
            self.announce()
        entries, position = self.dispatcher.offered.snapshot(position, SNAPSHOT_ENTRIES)
        if position >= 0:
            self._send(1 << peer.slot, SNAPSHOT, None, entries)
            self._post.later(lambda: self._send_snapshot(peer, position))
            return
        self._producer.attach(peer.slot, peer.incarnation)
        peer.is_attached = True
        self._send(1 << peer.slot, SNAPSHOT, self.sequence, entries)
        if self._news is not None:
            self._send(1 << peer.slot, NEWS, self._news, None)

    def _unblock(self):
        """Look again at every ring that waits: what it waits for may be here, or come no more."""
        cdef Peer peer
        for peer in self._reading:
            peer.is_blocked = False

    cdef int _drop(self, Peer peer) except -1:
        """A process has died: what it published is delivered, what it wanted is forgotten."""
        if peer.is_known:
            self._drain_peer(peer, True)
            self._reading.remove(peer)
        self._peers[peer.slot] = None
        self._post.disconnect(peer.slot)
        if peer.is_attached:
            self._producer.detach(peer.slot)
        self.dispatcher.sublist.drop_process(peer.slot)
        self._unblock()

    def knows_all(self) -> bool:
        """Whether every process that has joined has told what it wants, and reads this one's
        ring."""
        cdef Peer peer
        self.check_members()
        for peer in self._peers:
            if peer is not None and not (peer.is_known and peer.is_attached):
                return False
        for slot in range(self.slots.count):
            # One that has not joined yet will, or will be emptied by the supervisor.
            if slot != self.index and self.slots.state(slot) >= STATE_JOINED:
                if self._peers[slot] is None:
                    return False
        return True

    def is_complete(self) -> bool:
        """Whether every process that has joined has told what it wants, up to what it has
        announced by now. Becomes READY on the way, so that announcers count this process in."""
        cdef Peer peer
        if not self.knows_all():
            return False
        if self.slots.state(self.index) != STATE_READY:
            self._set_state(STATE_READY)
        for peer in self._peers:
            if peer is not None and peer.applied < self.slots.announced(peer.slot):
                return False
        return True

    # --- interest ------------------------------------------------------------------------------

    def announce(self) -> int:
        """Tell every peer what changed since the last time; returns the sequence number."""
        entries = self.dispatcher.offered.take_changes()
        if entries:
            self.sequence += 1
            self.slots.set_announced(self.index, self.sequence)
            processes = self._joined()
            for start in range(0, len(entries), SNAPSHOT_ENTRIES):
                # The number goes with the last part: what a client had may be a million entries.
                part = entries[start:start + SNAPSHOT_ENTRIES]
                is_last = start + len(part) == len(entries)
                self._send(processes, INTEREST, self.sequence if is_last else None, part)
        return self.sequence

    def make_known(self, content: tuple) -> None:
        """Tell every process, those that join later included, until something newer is told."""
        self._news = content
        self._send(self._joined(), NEWS, content, None)

    def _joined(self):
        cdef Peer peer
        cdef uint64_t processes = 0
        for peer in self._peers:
            if peer is not None:
                processes |= <uint64_t>1 << peer.slot
        return processes

    def _send(self, processes, kind, first, second):
        if processes:
            self._post.send(processes, (kind, self.index, self.incarnation, first, second))

    cdef bint is_applied(self, uint64_t sequence) except -1:
        """Whether every ready peer has applied the interest announced up to `sequence`.

        What is not announced yet is not applied, even if nobody is ready: a process that becomes
        ready before the announcement would not look for it, and nobody would wait for that one.
        """
        return sequence <= self.sequence and self.slots.lagging(self.index, sequence) == 0

    def on_message(self, message: tuple) -> None:
        """Handle one message of another process."""
        cdef Peer peer
        cdef uint32_t sender = message[1]
        cdef uint32_t incarnation = message[2]
        kind, first, second = message[0], message[3], message[4]
        if sender >= self.slots.count or sender == self.index:
            raise InternalError("a control message of a process that cannot be")
        peer = self._peers[sender]
        if peer is None or peer.incarnation != incarnation:
            self.check_members()
            peer = self._peers[sender]
            if peer is None or peer.incarnation != incarnation:
                return
        self._unblock()
        if kind == INTEREST or kind == SNAPSHOT:
            self._apply(peer, kind, first, second)
        elif kind == OVERSIZE:
            peer.oversize[first] = second
        elif kind == STALL:
            self._post.stall(first, second)
        elif kind == NEWS:
            self._post.news(first)
        else:
            raise InternalError("a control message of an unknown kind")

    def _apply(self, Peer peer, kind, sequence, entries):
        if entries:
            self.dispatcher.sublist.set_remote_many(peer.slot, entries)
        if kind == SNAPSHOT and sequence is not None:
            peer.is_known = True
            if peer.consumer.start():
                (<Doorbell>self._doorbells[peer.slot]).ring_always()
            self._reading.append(peer)
        if not peer.is_known or sequence is None:
            return
        peer.applied = sequence
        self.slots.set_applied(self.index, peer.slot, sequence)
        (<Doorbell>self._doorbells[peer.slot]).ring()

    # --- rings ---------------------------------------------------------------------------------

    def send_oversize(self, processes: int, number: int, record: bytes) -> None:
        """Carry a record too large for the ring to the processes it is for."""
        self._send(processes & self._producer.attached, OVERSIZE, number, record)

    cpdef ring_doorbells(self, processes):
        """Wake these processes where they sleep."""
        cdef uint64_t mask = processes & <uint64_t>0xFFFFFFFFFFFFFFFF
        cdef Doorbell doorbell
        cdef uint32_t slot
        for slot in range(self.slots.count):
            if mask >> slot & 1 and slot != self.index:
                doorbell = self._doorbells[slot]
                doorbell.ring()

    cdef bint has_work(self) except -1:
        """Whether anything came in that nobody has looked at: asked before falling asleep."""
        cdef Peer peer
        if self.slots.epoch != self._epoch:
            return True
        for peer in self._reading:
            # A batch that waits for a control message is woken by that message.
            if not peer.is_blocked and peer.consumer.is_behind():
                return True
        return False

    cdef int drain(self) except -1:
        """Read every peer's ring, a fair share of each. Returns how many batches were read.

        Raises:
            InternalError: a peer's ring makes no sense, or waits too long for interest.
        """
        cdef Peer peer
        cdef int batches = 0
        if self.slots.epoch != self._epoch:
            self.check_members()
        for peer in self._reading:
            batches += self._drain_peer(peer, False)
        return batches

    cdef int catch_up(self) except -1:
        """Read all that peers had published when this was called, but for what waits for interest.

        Whoever answers a PING calls this first: a publisher that has its own PONG can tell a
        subscriber, by any other way, to look, and what is there has to come before the answer.
        """
        cdef Peer peer
        cdef uint64_t end
        for peer in self._reading:
            end = peer.consumer.published()
            while peer.consumer.is_before(end) and self._drain_peer(peer, False):
                pass

    cdef int _drain_peer(self, Peer peer, bint is_last) except -1:
        cdef Batch batch
        cdef int batches = 0
        cdef uint64_t own = <uint64_t>1 << self.index
        peer.bytes_read = 0
        while (batches < BATCHES_MAX or is_last) and peer.consumer.peek(&batch):
            if batch.processes & own:
                if (
                    batch.incarnation == peer.incarnation
                    and batch.interest_sequence > peer.applied
                    and not is_last
                ):
                    self._wait(peer)
                    break
                self.dispatcher.origin.process = peer.slot
                self.dispatcher.origin.incarnation = batch.incarnation
                self.dispatcher.origin.interest_sequence = batch.interest_sequence
                if not self._read_batch(peer, batch.records, batch.records_len):
                    # What a dead process sent ends here: nothing after a message that is missing.
                    if not is_last:
                        self._wait(peer)
                    break
            peer.is_waiting = False
            peer.consumer.advance(&batch)
            batches += 1
        if self._outbounds is not None and self._outbounds.has_loans:
            self._outbounds.return_loans()
        if peer.stalls is not None:
            self._tell_stalls(peer)
        if batches and peer.consumer.release():
            (<Doorbell>self._doorbells[peer.slot]).ring_always()
        return batches

    cdef int _read_batch(
        self, Peer peer, const unsigned char* records, uint32_t length
    ) except -1:
        """Handle the records of a batch, from where it was left. 0: the body of one is not here."""
        cdef const RecordHeader* header
        cdef uint64_t own = <uint64_t>1 << self.index
        cdef uint64_t publisher
        cdef bytes body
        while peer.offset < length:
            header = <const RecordHeader*>(records + peer.offset)
            if length - peer.offset < sizeof(RecordHeader) or (
                header.length > length - peer.offset or header.length < sizeof(RecordHeader)
            ):
                raise InternalError("a record of a ring runs over its batch")
            if header.processes & own:
                body = None
                if header.kind == RECORD_OVERSIZE:
                    body = peer.oversize.get(header.publisher)
                    if body is None:
                        return 0
                if not self._receive(peer, header, body):
                    return 0
                if body is None:
                    publisher = header.publisher
                else:
                    publisher = (<const RecordHeader*>PyBytes_AS_STRING(body)).publisher
                    del peer.oversize[header.publisher]
                if self.dispatcher.stall_ms:
                    self._note_stall(peer, publisher)
            peer.offset += header.length
        peer.offset = 0
        return 1

    cdef int _receive(self, Peer peer, const RecordHeader* header, bytes body) except -1:
        """Handle one record, or the body it stands for. 0: not before more interest is known."""
        cdef const unsigned char* record = <const unsigned char*>header
        cdef size_t length = header.length
        cdef uint32_t flags = MESSAGE_IS_LENT if self._outbounds is not None else 0
        cdef Origin* origin = &self.dispatcher.origin
        cdef Origin sender
        cdef Message message
        cdef Peer first
        if body is not None:
            record = <const unsigned char*>PyBytes_AS_STRING(body)
            length = PyBytes_GET_SIZE(body)
            flags = 0
        if length < sizeof(RecordHeader) or (<const RecordHeader*>record).hops == 0:
            self.dispatcher.receive(record, length, flags)
        else:
            # Handed on: what counts is the interest of the process that it came from first.
            sender = origin[0]
            if not read_record(record, length, &message) or not read_origin(record, origin):
                raise InternalError("a record that was handed on does not tell from where")
            first = self._peers[origin.process] if origin.process < self.slots.count else None
            if first is not None and first.incarnation == origin.incarnation and (
                first.applied < origin.interest_sequence
            ):
                return 0
            self.dispatcher.receive(record, length, flags)
            origin[0] = sender
        peer.bytes_read += length
        return 1

    def _wait(self, Peer peer):
        """A batch has to wait for a control message; for ever would be a fault of ours."""
        cdef uint64_t own_beats = self.slots.heartbeat(self.index)
        cdef uint64_t peer_beats = self.slots.heartbeat(peer.slot)
        peer.is_blocked = True
        if not peer.is_waiting:
            peer.is_waiting = True
            peer.own_beats = own_beats
            peer.peer_beats = peer_beats
        elif own_beats > peer.own_beats + STUCK_BEATS and (
            peer_beats > peer.peer_beats + STUCK_BEATS
        ):
            raise InternalError(f"the ring of process {peer.slot} waits for a lost message")

    cdef int _note_stall(self, Peer peer, uint64_t client) except -1:
        """A consumer here is far behind: its publisher is to be held back."""
        if peer.stalls is None:
            peer.stalls = {}
        peer.stalls[client] = peer.stalls.get(client, 0) + self.dispatcher.stall_ms
        self.dispatcher.stall_ms = 0

    cdef int _tell_stalls(self, Peer peer) except -1:
        """Ask the publishers' process to hold them back, once for all that was read together, and
        for as long as it would have done itself over as many reads."""
        cdef uint64_t longest = STALL_MS_MAX * (1 + peer.bytes_read // READ_BYTES_STALLED)
        for client, milliseconds in peer.stalls.items():
            self._send(1 << peer.slot, STALL, client, min(milliseconds, longest))
        peer.stalls = None

    # --- doors for owners in Python ------------------------------------------------------------

    def read_rings(self) -> int:
        """`drain`."""
        return self.drain()

    def applied(self, uint64_t sequence) -> bool:
        """`is_applied`."""
        return self.is_applied(sequence)

    def has_unread(self) -> bool:
        """`has_work`."""
        return self.has_work()
