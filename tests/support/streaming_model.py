"""What plain subscriptions are sent, said again in plain Python: the oracle of the streaming core.

One channel, any number of subscriptions and durables of two clients. The model knows nothing of
passes, heaps or hash tables: it has a list of messages and walks through time.
"""

from dataclasses import dataclass, field

from shardd.streaming.messages import StartPosition

WINDOW_MS = 15

Sent = tuple[int, bytes, int]  # sequence, data, how often it was sent before


@dataclass
class Stored:
    """One message."""

    sequence: int
    data: bytes
    time_ms: int


@dataclass
class Pending:
    """In flight."""

    expiry_ms: int
    count: int = 0


@dataclass
class Subscription:
    """A plain one. An offline durable stays in the model without an inbox."""

    client_id: str
    durable: str
    max_in_flight: int
    ack_wait_ms: int
    position: int
    is_online: bool = True
    timer_ms: int | None = None
    pending: dict[int, Pending] = field(default_factory=dict)
    sent: list[Sent] = field(default_factory=list)

    def due(self, limit_ms: int) -> list[int]:
        """What expires until then, in order."""
        found = [(each.expiry_ms, sequence) for sequence, each in self.pending.items()]
        return [sequence for expiry_ms, sequence in sorted(found) if expiry_ms <= limit_ms]


class Channel:
    """One channel and who subscribes to it."""

    def __init__(self, now_ms: int, messages_max: int) -> None:
        self.now_ms = now_ms
        self.messages_max = messages_max
        self.stored: list[Stored] = []
        self.last = 0
        self.subscriptions: list[Subscription] = []

    @property
    def first(self) -> int:
        """Of the messages that are there."""
        return self.stored[0].sequence if self.stored else self.last + 1

    def publish(self, payloads: list[bytes]) -> None:
        """Committed together."""
        for data in payloads:
            self.last += 1
            self.stored.append(Stored(self.last, data, self.now_ms))
        if self.messages_max:
            self.stored = self.stored[-self.messages_max :]
        self.flow()

    def find(self, sequence: int) -> Stored | None:
        """This very message, if it is there."""
        return next((each for each in self.stored if each.sequence == sequence), None)

    def start(self, position: StartPosition, sequence: int, delta_ms: int) -> int:
        """Where a new subscription begins."""
        if position is StartPosition.FIRST:
            return self.first
        if position is StartPosition.LAST_RECEIVED:
            return max(self.last, 1)
        if position is StartPosition.SEQUENCE:
            return min(max(sequence, self.first), self.last + 1)
        if position is StartPosition.TIME_DELTA and delta_ms >= 0:
            for each in self.stored:
                if each.time_ms >= self.now_ms - delta_ms:
                    return each.sequence
        return self.last + 1

    def subscribe(
        self, client_id: str, durable: str, max_in_flight: int, ack_wait_ms: int, start: int
    ) -> Subscription:
        """A new one, or an offline durable that goes on. The caller knows that there is none that
        is online."""
        subscription = Subscription(client_id, durable, max_in_flight, ack_wait_ms, start - 1)
        old = self.offline(client_id, durable)
        if old is not None:
            self.subscriptions.remove(old)
            subscription.position = old.position
            subscription.pending = old.pending
            for pending in subscription.pending.values():
                pending.expiry_ms = self.now_ms
        self.subscriptions.append(subscription)
        self.fire(subscription)
        self.flow()
        return subscription

    def offline(self, client_id: str, durable: str) -> Subscription | None:
        """The durable that waits for its owner."""
        for each in self.subscriptions:
            if durable and (each.client_id, each.durable) == (client_id, durable):
                assert not each.is_online
                return each
        return None

    def end(self, subscription: Subscription, is_unsubscribe: bool) -> None:
        """Closed or unsubscribed."""
        subscription.is_online = False
        subscription.timer_ms = None
        if is_unsubscribe or not subscription.durable:
            self.subscriptions.remove(subscription)

    def ack(self, subscription: Subscription, sequence: int) -> None:
        """By its subscriber."""
        subscription.pending.pop(sequence, None)
        self.flow()

    def flow(self) -> None:
        """Whatever may be sent for the first time."""
        for each in self.subscriptions:
            while each.is_online and len(each.pending) < each.max_in_flight:
                message = next((m for m in self.stored if m.sequence > each.position), None)
                if message is None:
                    break
                each.position = message.sequence
                each.pending[message.sequence] = Pending(self.now_ms + each.ack_wait_ms)
                each.sent.append((message.sequence, message.data, 0))
            self.arm(each)

    def arm(self, subscription: Subscription) -> None:
        """It has a timer while something is in flight."""
        if subscription.is_online and subscription.timer_ms is None and subscription.pending:
            subscription.timer_ms = min(each.expiry_ms for each in subscription.pending.values())

    def fire(self, subscription: Subscription) -> None:
        """Its timer goes off: what is due is sent again."""
        subscription.timer_ms = None
        limit_ms = self.now_ms + WINDOW_MS
        for sequence in subscription.due(limit_ms):
            message = self.find(sequence)
            if message is None:
                del subscription.pending[sequence]
                continue
            pending = subscription.pending[sequence]
            pending.count += 1
            pending.expiry_ms += subscription.ack_wait_ms
            if pending.expiry_ms <= limit_ms:
                pending.expiry_ms = self.now_ms + subscription.ack_wait_ms
            subscription.sent.append((sequence, message.data, pending.count))
        self.arm(subscription)

    def advance(self, milliseconds: int) -> None:
        """Time passes."""
        end_ms = self.now_ms + milliseconds
        while True:
            timers = [each.timer_ms for each in self.subscriptions if each.timer_ms is not None]
            self.now_ms = max(min([*timers, end_ms]), self.now_ms)
            if self.now_ms == end_ms and not any(timer <= end_ms for timer in timers):
                return
            for each in self.subscriptions:
                if each.timer_ms is not None and each.timer_ms <= self.now_ms:
                    self.fire(each)
            self.flow()

    def restart(self) -> None:
        """The server, with everything saved: what was in flight counts from its storing."""
        for each in self.subscriptions:
            each.timer_ms = None
            for sequence, pending in list(each.pending.items()):
                message = self.find(sequence)
                if message is None:
                    del each.pending[sequence]
                    continue
                expiry_ms = message.time_ms + each.ack_wait_ms
                latest_ms = self.now_ms + each.ack_wait_ms
                pending.expiry_ms = max(min(expiry_ms, latest_ms), self.now_ms)
                pending.count = 0
            if each.is_online and each.due(self.now_ms):
                self.fire(each)
        self.flow()
