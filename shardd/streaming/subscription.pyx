# cython: language_level=3str
"""One subscription, or what is left of a durable one whose owner is away.

It knows how far it is, what is in flight, and how a message is sent to its inbox. Which message is
the next is decided by its channel; which member gets it, by its queue group.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from shardd.streaming.bus cimport Outgoing
from shardd.streaming.pb cimport REDELIVERY_BYTES_MAX, write_redelivery

from shardd.streaming.store import SubscriptionRow


@cython.final
cdef class Subscription:
    """Touched by its worker's event loop only."""

    def __init__(self, Traffic traffic not None, row: SubscriptionRow) -> None:
        self.traffic = traffic
        self.id = row.id
        self.client_id = row.client_id
        self.inbox = row.inbox
        self.ack_inbox = row.ack_inbox
        self.max_in_flight = max(row.max_in_flight, 1)
        self.ack_wait_ms = max(row.ack_wait_s, 1) * 1000
        self.durable_name = row.durable_name
        self.queue_group = row.queue_group
        self.is_durable = row.is_durable
        self.owner = row.owner
        self.is_offline = row.is_closed or not row.client_id
        self.last_sent = row.last_sent
        self.in_flight = InFlight()

    @property
    def is_stalled(self) -> bool:
        """Whether it gets nothing new before it acknowledges."""
        return self.in_flight.count >= self.max_in_flight

    @property
    def position(self) -> int:
        """The sequence it goes on behind: of its queue group, if it is in one."""
        return self.last_sent if self.group is None else self.group.last_sent

    def row(self) -> SubscriptionRow:
        """As a store keeps it."""
        return SubscriptionRow(
            id=self.id,
            client_id=self.client_id,
            inbox=self.inbox,
            ack_inbox=self.ack_inbox,
            max_in_flight=self.max_in_flight,
            ack_wait_s=self.ack_wait_ms // 1000,
            durable_name=self.durable_name,
            queue_group=self.queue_group,
            last_sent=self.position,
            is_durable=self.is_durable,
            is_closed=self.is_offline,
            pending=self.in_flight.sequences(),
            owner=self.owner,
        )

    def go_offline(self) -> None:
        """Its owner is gone; the position stays. A queue group's remains belong to nobody."""
        self.is_offline = True
        self.is_started = False
        self.is_failing = False
        self.is_due = False
        self.owner = b""
        if self.group is not None:
            self.client_id = ""

    def take_over(self, Subscription other not None) -> None:
        """Goes on where another one was."""
        self.last_sent = other.last_sent
        self.in_flight = other.in_flight
        other.in_flight = InFlight()

    def next_expiry_ms(self) -> int:
        """When the next redelivery is due; 0: nothing is in flight."""
        first = self.in_flight.first()
        return 0 if first == NULL else first.expiry_ms

    def hold(self, uint64_t sequence, int64_t expiry_ms, uint32_t count=0) -> None:
        """Something is in flight without having been sent by this subscription."""
        self.in_flight.put(sequence, expiry_ms, count)
        self.note_moved()
        self.arm()  # a timer that it may have could be too late

    def arm(self) -> None:
        """It needs a timer if anything is in flight."""
        self.is_armed = True
        self.traffic.armed.append(self)

    def changed(self) -> None:
        """Its position is to be saved."""
        self.note_moved()

    cdef int note_moved(self) except -1:
        if not self.is_moved:
            self.is_moved = True
            self.traffic.moved.append(self)
        return 0

    cdef int note_armed(self) except -1:
        if not self.is_armed:
            self.is_armed = True
            self.traffic.armed.append(self)
        return 0

    cdef int send(self, const Stored* stored, uint32_t count) except -1:
        """To the inbox, as the delivery of that number; 0: the first."""
        cdef Outgoing message
        cdef unsigned char[REDELIVERY_BYTES_MAX] more
        message.subject = <const unsigned char*>PyBytes_AS_STRING(self.inbox)
        message.subject_len = PyBytes_GET_SIZE(self.inbox)
        message.reply = NULL
        message.reply_len = 0
        message.payload = stored.bytes
        message.payload_len = stored.length
        message.more = NULL
        message.more_len = 0
        if count:
            message.more = more
            message.more_len = write_redelivery(more, count)
            self.traffic.redelivered += 1
        self.traffic.out_messages += 1
        self.traffic.out_bytes += stored.length
        self.traffic.bus.publish(&message)
        return 0

    cdef int deliver(self, const Stored* stored) except -1:
        """A message for the first time."""
        self.in_flight.put(stored.sequence, self.traffic.now_ms + self.ack_wait_ms, 0)
        self.last_sent = stored.sequence
        self.note_moved()
        self.note_armed()
        self.send(stored, 0)
        return 0
