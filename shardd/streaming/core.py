"""What the parts of a streaming server share: its state, its clock, its way to answer.

Commits are begun and ended here, because everything waits for them: publishers for their acks,
requests for the rows that they changed.
"""

import logging
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from shardd.config.streaming import StreamingOptions
from shardd.streaming.bus import Bus
from shardd.streaming.channel import Channel, deliver_ready
from shardd.streaming.clients import Clients
from shardd.streaming.commit_batch import Batch
from shardd.streaming.receiver import StreamingReceiver
from shardd.streaming.schedule import Schedule
from shardd.streaming.store import CommitResult, ServerRow, Store
from shardd.streaming.subjects import Subjects, partitions_of, shown
from shardd.streaming.subscription import Subscription
from shardd.streaming.traffic import Traffic

log = logging.getLogger("shardd.streaming")

# How far a subscription is, is saved this often at the most.
POSITIONS_MS: Final = 50
# After rows could not be written, they are tried again this often while nothing else is waiting.
RETRY_MS: Final = 250
# A log that could not be read is tried again this soon.
READ_AGAIN_MS: Final = 1000


class State(StrEnum):
    """What a server is, under the original's names (sheet 14, 17)."""

    STANDALONE = "STANDALONE"
    FT_STANDBY = "FT_STANDBY"  # another server of its group serves
    FT_ACTIVE = "FT_ACTIVE"


class Core:
    """The state of one streaming worker.

    Args:
        options: what it was configured to do.
        store: opened for this worker's parts.
        bus: its way to NATS.
        index, workers: which of how many workers this is.
    """

    def __init__(
        self, options: StreamingOptions, store: Store, bus: Bus, index: int, workers: int
    ) -> None:
        self.options = options
        self.store = store
        self.bus = bus
        self.index = index
        self.workers = workers
        self.parts = frozenset(partitions_of(index, workers))
        self.schedule = Schedule()
        self.traffic = Traffic(bus)
        self.traffic.on_unreadable = self._on_unreadable
        self.receiver = StreamingReceiver(self.traffic, self.parts, 0)
        self.clients = Clients(self.receiver.clients, self.receiver.connections)
        self.last_ids: dict[int, int] = {}
        self.row: ServerRow | None = None
        self.started_ns = 0
        self.state = State.FT_STANDBY if options.ft_group else State.STANDALONE
        # Called when something is to be done outside of a pass: the driver makes one.
        self.on_wake: Callable[[], object] | None = None
        # Called with every channel of a batch that was committed.
        self.on_committed: Callable[[Channel], object] | None = None
        self._committing: Batch | None = None
        self._result: CommitResult | None = None
        self._save_ms = 0  # when positions are saved next; 0: nothing to save
        self._retry_ms = 0
        self._is_awaited = False  # the open batch has a waiter that changed something
        self._is_urgent = False  # and one that does not wait until what failed is tried again
        self._unreadable: dict[bytes, str] = {}  # channels whose log could not be read, and why

    @property
    def is_lead(self) -> bool:
        """Whether this worker keeps the registry of clients."""
        return self.index == 0

    @property
    def now_ms(self) -> int:
        """The monotonic clock of this pass."""
        return self.traffic.now_ms

    @property
    def channels(self) -> dict[bytes, Channel]:
        """The channels of this worker, by name."""
        return self.receiver.channels

    @property
    def subjects(self) -> Subjects:
        """Where the server listens."""
        row = self.server_row
        return Subjects(
            discover=row.discover,
            pings=row.discover + b".pings",
            pub=row.pub,
            sub=row.sub,
            unsub=row.unsub,
            sub_close=row.sub_close,
            close=row.close,
        )

    @property
    def server_row(self) -> ServerRow:
        """Who the server is; known once it starts."""
        assert self.row is not None, "asked before the server was known"
        return self.row

    def respond(self, reply: bytes, payload: bytes) -> None:
        """Answers a request, if it asked for an answer."""
        if reply:
            self.bus.send(reply, payload)

    def after_commit(
        self,
        callback: Callable[[str], object],
        *,
        is_changed: bool = True,
        is_urgent: bool = True,
    ) -> None:
        """Calls back when everything that is queued now has been written: with "", or with the
        reason why rows could not be.

        Args:
            is_changed: a row was queued, so that there must be a commit.
            is_urgent: that one need not wait until what failed is tried again.
        """
        self.receiver.batch.waiters.append(callback)
        self._is_awaited |= is_changed
        self._is_urgent |= is_urgent

    # --- passes ----------------------------------------------------------------------------------

    def end_pass(self) -> None:
        """Everything that was received is dealt with: deliver, and begin a commit."""
        if self._result is not None:
            self._end_commit()
        deliver_ready(self.traffic)
        self.arm_timers()
        if self._save_ms and self.now_ms >= self._save_ms:
            self.save_positions()
        elif not self._save_ms and self.traffic.moved:
            self._save_ms = self.now_ms + POSITIONS_MS
        if self._committing is None and not self.store.is_committing:
            self._begin_commit()

    def next_ms(self) -> int | None:
        """When the next pass is needed at the latest; None: only when something arrives."""
        if self.traffic.ready and not self.bus.is_congested:
            return self.now_ms
        times = [self._save_ms, self._retry_ms, self.schedule.next_ms or 0]
        return min((each for each in times if each), default=None)

    def _begin_commit(self) -> None:
        batch = self.receiver.batch
        if not self.store.has_changes:
            self._retry_ms = 0
            if self._is_awaited:
                # The store has what somebody waits for, and does not want to be asked again yet.
                self._retry_ms = self.now_ms + RETRY_MS
            elif batch.waiters:
                self.receiver.batch = Batch()
                for waiter in batch.waiters:
                    waiter("")
            return
        if self.now_ms < self._retry_ms and not (self._is_urgent or batch.channels):
            return
        self._retry_ms = 0
        self._is_awaited = self._is_urgent = False
        self._committing = batch
        self.receiver.batch = Batch()
        self.store.commit(self._on_done)

    def _on_done(self, result: CommitResult) -> None:
        self._result = result
        for name, text in result.failed_channels.items():
            channel = self.channels.get(name)
            if channel is not None:
                channel.clamp()
                # What was appended since the commit began has been taken back as well; what comes
                # from now on has not.
                self.receiver.batch.refuse(self.bus, channel, text)
        if self.on_wake is not None:
            self.on_wake()

    def _end_commit(self) -> None:
        """New messages go to subscribers first, then publishers are answered (sheet 4)."""
        result, batch = self._result, self._committing
        assert result is not None
        assert batch is not None
        self._result = self._committing = None
        failed = {
            self.channels[name]: text
            for name, text in result.failed_channels.items()
            if name in self.channels
        }
        for channel in batch.channels:
            if channel.batch is batch:
                channel.batch = None
            channel.wake()
            if self.on_committed is not None:
                self.on_committed(channel)
        deliver_ready(self.traffic)
        batch.answer(self.bus, failed)
        if result.state_error:
            self._retry_ms = self.now_ms + RETRY_MS
        for waiter in batch.waiters:
            waiter(result.state_error)

    # --- subscriptions' small needs --------------------------------------------------------------

    def save_positions(self) -> None:
        """Queues every position that changed. All at once: what moved from one member of a queue
        group to another must not be lost between two commits."""
        self._save_ms = 0
        moved: list[Subscription] = list(self.traffic.moved)
        self.traffic.moved.clear()
        for subscription in moved:
            subscription.is_moved = False
            channel: Channel = subscription.channel
            if channel.subscriptions.get(subscription.id) is subscription:
                self.store.save_position(
                    channel.name,
                    subscription.id,
                    subscription.position,
                    subscription.in_flight.sequences(),
                )

    def _on_unreadable(self, channel: Channel, text: str) -> None:
        """Deliveries wait: what comes behind it must not overtake what cannot be read now."""
        if self._unreadable.get(channel.name) != text:
            self._unreadable[channel.name] = text
            log.error("channel %s: deliveries wait: %s", shown(channel.name), text)
        self.schedule.at(self.now_ms + READ_AGAIN_MS, channel.loaded)

    def arm_timers(self) -> None:
        """Subscriptions that have something in flight get a timer, unless they have one that goes
        off early enough."""
        armed: list[Subscription] = list(self.traffic.armed)
        self.traffic.armed.clear()
        for subscription in armed:
            expiry_ms = subscription.next_expiry_ms()
            if not expiry_ms or subscription.is_offline or not subscription.is_started:
                subscription.is_armed = False
            elif not subscription.timer_ms or expiry_ms < subscription.timer_ms:
                self._arm(subscription, expiry_ms)

    def _arm(self, subscription: Subscription, deadline_ms: int) -> None:
        subscription.timer_ms = deadline_ms
        subscription.is_armed = True
        self.schedule.at(deadline_ms, lambda: self._on_expiry(subscription, deadline_ms))

    def _on_expiry(self, subscription: Subscription, deadline_ms: int) -> None:
        if subscription.timer_ms != deadline_ms:
            return  # an earlier one was set since
        subscription.timer_ms = 0
        subscription.is_armed = False
        channel: Channel = subscription.channel
        if subscription.is_failing and subscription.group is None and not subscription.is_offline:
            self._arm(subscription, self.now_ms + subscription.ack_wait_ms)
        else:
            channel.redeliver(subscription)
