# cython: language_level=3str
"""One channel with its log, its subscriptions and its queue groups.

Here is decided which message a subscription is sent next, and what is sent again (sheet 6). Plain
subscriptions come before queue groups. One subscription gets a bounded number in one pass, and
nothing while the bus is congested: the channel then stays among `traffic.ready`.
"""

cimport cython
from libc.stdint cimport uint32_t

from shardd.streaming.inflight cimport Entry
from shardd.streaming.log cimport FOUND_LATER, FOUND_MESSAGE, FOUND_NOTHING, Found, Stored
from shardd.streaming.pb cimport MsgProto, parse_message

from shardd.errors import StoreError

# What expires this soon is sent again with what has expired (sheet 6).
cdef enum:
    EXPIRY_WINDOW_MS = 15


@cython.final
cdef class Channel:
    """Owned by one streaming worker."""

    def __init__(self, bytes name not None, ChannelLog log not None, Traffic traffic not None):
        self.name = name
        self.log = log
        self.traffic = traffic
        self.subscriptions = {}
        self.plain = []
        self.groups = {}
        self.durables = {}
        self.active_ms = traffic.now_ms
        log.on_loaded = self.loaded

    def loaded(self) -> None:
        """The log has fetched what somebody waits for, or may be readable again."""
        self.is_loading = False
        self.note_ready()

    @property
    def is_active(self) -> bool:
        """Whether a subscription is online: such a channel is not removed for inactivity."""
        return bool(self.plain) or any(group.members for group in self.groups.values())

    def wake(self) -> None:
        """Something may be deliverable."""
        self.note_ready()

    # --- subscriptions come and go ---------------------------------------------------------------

    def add(self, Subscription subscription not None) -> None:
        """A subscription that is online, or an offline one as a store remembers it. It takes its
        queue group, if it names one, as it is."""
        subscription.channel = self
        self.subscriptions[subscription.id] = subscription
        if subscription.queue_group:
            self._add_member(subscription)
            return
        if subscription.is_durable:
            self.durables[subscription.client_id, subscription.durable_name] = subscription
        if not subscription.is_offline:
            self.plain.append(subscription)

    def _add_member(self, Subscription subscription) -> None:
        # A plain group named `a:b` is not the durable `a` of the group `b`.
        key = subscription.queue_group, subscription.is_durable
        group = self.groups.get(key)
        if group is None:
            group = QueueGroup(
                subscription.queue_group, subscription.is_durable, subscription.last_sent
            )
            self.groups[key] = group
        group.last_sent = max(group.last_sent, subscription.last_sent)
        if not subscription.is_offline:
            group.join(subscription)
        else:
            subscription.group = group
            group.remains = subscription

    def remove(self, Subscription subscription not None, bint is_unsubscribe) -> bool:
        """Ends a subscription. True when it stays as an offline one: a durable that was closed, or
        the remains of a durable queue group (sheet 7)."""
        cdef QueueGroup group = subscription.group
        cdef bint stays = subscription.is_durable and not is_unsubscribe
        if group is None:
            if not subscription.is_offline:
                self.plain.remove(subscription)
            if not stays:
                self.durables.pop((subscription.client_id, subscription.durable_name), None)
        elif subscription.is_offline:
            group.remains = None
            del self.groups[group.name, group.is_durable]
            stays = False
        elif group.leave(subscription, self.traffic.now_ms):
            stays = False
            self.note_ready()
        elif not stays:
            del self.groups[group.name, group.is_durable]
        self.active_ms = self.traffic.now_ms
        if stays:
            subscription.go_offline()
        else:
            del self.subscriptions[subscription.id]
            subscription.is_offline = True
            subscription.is_started = False
        return stays

    def replace(self, Subscription remains not None, Subscription successor not None) -> None:
        """A durable subscription or a durable queue group goes on with a new owner. Everything
        that was in flight is sent again first, at once."""
        del self.subscriptions[remains.id]
        successor.channel = self
        self.subscriptions[successor.id] = successor
        if remains.group is None:
            successor.take_over(remains)
            self.durables[successor.client_id, successor.durable_name] = successor
            self.plain.append(successor)
        else:
            remains.group.join(successor)
        successor.in_flight.expire_all(self.traffic.now_ms)
        successor.is_due = successor.in_flight.count > 0

    def find_inbox(self, bytes inbox not None) -> Subscription | None:
        """The online subscription with this ack inbox or, failing that, this inbox (sheet 2)."""
        cdef Subscription subscription
        cdef Subscription found = None
        for subscription in self.subscriptions.values():
            if not subscription.is_offline:
                if subscription.ack_inbox == inbox:
                    return subscription
                if subscription.inbox == inbox:
                    found = subscription
        return found

    def clamp(self) -> None:
        """Messages were taken back, or lost: nobody can be beyond the end of the log."""
        cdef Subscription subscription
        cdef uint64_t last = self.log.last
        self.failures += 1
        for subscription in self.subscriptions.values():
            if subscription.last_sent > last:
                subscription.last_sent = last
                subscription.note_moved()
            for sequence in subscription.in_flight.sequences():
                if sequence > last:
                    subscription.in_flight.remove(sequence)
                    subscription.note_moved()
        for group in self.groups.values():
            group.last_sent = min(group.last_sent, last)

    # --- delivery --------------------------------------------------------------------------------

    cdef int note_ready(self) except -1:
        if not self.is_ready:
            self.is_ready = True
            self.traffic.ready.append(self)
        return 0

    cdef int ack(self, Subscription subscription, uint64_t sequence) except -1:
        """An ack arrived at this subscription's ack inbox."""
        cdef QueueGroup group
        if subscription.in_flight.remove(sequence):
            subscription.note_moved()
        elif subscription.group is None:
            return 0
        elif not (<QueueGroup>subscription.group).ack(sequence):
            return 0
        if subscription.group is None:
            if subscription.last_sent < self.log.last:
                self.note_ready()
        else:
            group = <QueueGroup>subscription.group
            if group.last_sent < self.log.last:
                self.note_ready()
        return 0

    cdef int pause(self, object error) except -1:
        """The log cannot be read: nothing is delivered until `loaded`."""
        self.is_loading = True
        if self.traffic.on_unreadable is not None:
            self.traffic.on_unreadable(self, str(error))
        return 0

    cdef int deliver(self) except -1:
        """Whatever may be sent now."""
        cdef Subscription subscription
        cdef QueueGroup group
        self.is_ready = False
        if self.is_loading:
            return 0
        for subscription in self.plain:
            if subscription.is_started:
                if subscription.is_due:
                    self._redeliver(subscription)
                if subscription.last_sent < self.log.last and not subscription.is_due:
                    self._feed(subscription)
        for group in list(self.groups.values()):
            for subscription in list(group.members):
                if subscription.is_due and subscription.is_started:
                    self._redeliver(subscription)
            if group.last_sent < self.log.last:
                self._feed_group(group)
        return 0

    cdef int _feed(self, Subscription subscription) except -1:
        """New messages for a plain subscription."""
        cdef Stored stored
        cdef Found found
        cdef uint32_t left = self.traffic.deliveries_max
        while (
            subscription.last_sent < self.log.last
            and subscription.in_flight.count < subscription.max_in_flight
        ):
            if left == 0 or self.traffic.bus.is_congested:
                self.note_ready()
                break
            left -= 1
            found = self.log.get(subscription.last_sent + 1, &stored)
            if found == FOUND_MESSAGE:
                subscription.deliver(&stored)
            elif found == FOUND_NOTHING:
                # All that was there has been dropped by the limits.
                subscription.last_sent = self.log.last
                subscription.note_moved()
            else:
                self.is_loading = True
                break
        return 0

    cdef int _feed_group(self, QueueGroup group) except -1:
        """New messages for a queue group, each for one member."""
        cdef Stored stored
        cdef Found found
        cdef Subscription member
        cdef uint32_t left = self.traffic.deliveries_max
        cdef uint32_t most = self.traffic.group_in_flight_max
        while group.last_sent < self.log.last:
            if most and group.in_flight() >= most:
                break
            if left == 0 or self.traffic.bus.is_congested:
                self.note_ready()
                break
            left -= 1
            found = self.log.get(group.last_sent + 1, &stored)
            if found == FOUND_LATER:
                self.is_loading = True
                break
            member = group.pick()
            if member is None or member.in_flight.count >= member.max_in_flight:
                break
            if found == FOUND_MESSAGE:
                member.deliver(&stored)
                group.last_sent = stored.sequence
            else:
                group.last_sent = self.log.last
                member.note_moved()
        return 0

    # --- redelivery ------------------------------------------------------------------------------

    def redeliver(self, Subscription subscription not None) -> None:
        """Its timer went off. A plain subscription whose owner does not answer heartbeats is sent
        nothing again (sheet 3)."""
        if subscription.is_offline or not subscription.is_started:
            return
        if subscription.group is None and subscription.is_failing:
            return
        try:
            self._redeliver(subscription)
        except StoreError as error:
            self.pause(error)

    cdef int _redeliver(self, Subscription subscription) except -1:
        """Sends again what is due. What there is no room for stays due."""
        cdef Stored stored
        cdef Found found
        cdef const Entry* entry
        cdef uint64_t sequence
        cdef int64_t expiry_ms, now_ms = self.traffic.now_ms
        cdef uint32_t count
        cdef uint32_t left = self.traffic.deliveries_max
        cdef uint32_t most = self.traffic.redeliveries_max
        cdef Subscription target
        subscription.is_due = False
        while True:
            entry = subscription.in_flight.first()
            if entry == NULL or entry.expiry_ms > now_ms + EXPIRY_WINDOW_MS:
                break
            if left == 0 or self.traffic.bus.is_congested or self.is_loading:
                subscription.is_due = True
                self.note_ready()
                break
            left -= 1
            sequence = entry.sequence
            expiry_ms = entry.expiry_ms
            count = entry.count + 1
            try:
                found = self.log.get(sequence, &stored)
            except StoreError:
                subscription.is_due = True
                raise
            if found == FOUND_LATER:
                self.is_loading = True
                subscription.is_due = True
                break
            if found == FOUND_NOTHING or stored.sequence != sequence:
                # The limits have dropped it.
                subscription.in_flight.remove(sequence)
                subscription.note_moved()
                continue
            # The next time is counted from this one's; from now where that has passed as well.
            expiry_ms += subscription.ack_wait_ms
            if expiry_ms <= now_ms + EXPIRY_WINDOW_MS:
                expiry_ms = now_ms + subscription.ack_wait_ms
            if most and count > most and self.traffic.on_exhausted is not None:
                subscription.in_flight.put(sequence, expiry_ms, count - 1)
                self._exhausted(subscription, &stored)
                continue
            target = subscription
            if subscription.group is not None:
                target = (<QueueGroup>subscription.group).pick()
                if target is None:
                    target = subscription
            if target is subscription:
                subscription.in_flight.put(sequence, expiry_ms, count)
            else:
                subscription.in_flight.remove(sequence)
                subscription.note_moved()
                target.in_flight.put(sequence, now_ms + target.ack_wait_ms, count)
                target.note_moved()
            target.note_armed()
            target.send(&stored, count)
        if subscription.in_flight.count < subscription.max_in_flight:
            self.note_ready()
        if subscription.in_flight.count and not subscription.is_due:
            subscription.note_armed()
        return 0

    cdef int _exhausted(self, Subscription subscription, const Stored* stored) except -1:
        """It has been sent as often as it may be."""
        cdef MsgProto message
        if parse_message(stored.bytes, stored.length, &message) < 0:
            raise ValueError("a stored message is no MsgProto")
        reply = message.reply.data[:message.reply.length] if message.reply.length else b""
        data = message.data.data[:message.data.length] if message.data.length else b""
        self.traffic.on_exhausted(self, subscription, stored.sequence, reply, data)
        return 0

    def acknowledge(self, Subscription subscription not None, uint64_t sequence) -> None:
        """As if the subscriber had: the message has gone elsewhere."""
        self.ack(subscription, sequence)

    def expire_recovered(self, Subscription subscription not None, sequences) -> None:
        """What was in flight when the server stopped expires as if it had been sent when it was
        stored (sheet 9). Messages that are no longer there are forgotten."""
        cdef Stored stored
        cdef Found found
        cdef int64_t expiry_ms
        for sequence in sequences:
            expiry_ms = self.traffic.now_ms
            found = self.log.find(sequence, &stored)
            if found == FOUND_MESSAGE and stored.sequence == sequence:
                expiry_ms += subscription.ack_wait_ms
                expiry_ms += (stored.timestamp_ns - self.traffic.now_ns) // 1_000_000
                expiry_ms = max(
                    min(expiry_ms, self.traffic.now_ms + subscription.ack_wait_ms),
                    self.traffic.now_ms,
                )
            elif found != FOUND_LATER:
                subscription.note_moved()
                continue
            subscription.in_flight.put(sequence, expiry_ms, 0)


def deliver_ready(Traffic traffic not None) -> None:
    """Every channel that may have something to send does so, once. What must wait is still ready
    afterwards."""
    cdef list channels
    cdef Channel channel
    if traffic.bus.is_congested or not traffic.ready:
        return
    channels = list(traffic.ready)
    traffic.ready.clear()
    for channel in channels:
        try:
            channel.deliver()
        except StoreError as error:
            channel.pause(error)
