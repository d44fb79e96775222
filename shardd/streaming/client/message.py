"""A message as a subscriber gets it."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol


class Acknowledger(Protocol):
    """The subscription that a message came by."""

    async def acknowledge(self, message: "StreamingMessage") -> None:
        """Tells the server that the message was dealt with."""


@dataclass(slots=True, eq=False)
class StreamingMessage:
    """One message of a channel. Redelivered ones may have been handled before."""

    channel: str
    sequence: int
    data: bytes
    timestamp_ns: int  # when it was stored, by the server's clock: nanoseconds since 1970
    redelivered: bool
    redelivery_count: int
    reply: str  # as its publisher gave it; nothing is done with it
    _subscription: Acknowledger = field(repr=False)

    @property
    def timestamp(self) -> datetime:
        """When it was stored, by the server's clock; cut to microseconds."""
        seconds, rest = divmod(self.timestamp_ns, 1_000_000_000)
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=rest // 1000)

    async def ack(self) -> None:
        """Acknowledges the message, in a subscription with `manual_ack`.

        Raises ManualAckError for another one, SubscriptionClosedError and ConnectionClosedError if
        it is too late, and NatsError if the ack cannot be sent. Without an ack the message comes
        again.
        """
        await self._subscription.acknowledge(self)
