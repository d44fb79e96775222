"""Where a subscription starts, and what connections and subscriptions are told: frozen data."""

import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Self

from shardd.streaming.messages import StartPosition

CONNECT_WAIT_S: Final = 2.0
PUBLISH_WAIT_S: Final = 30.0
PUBLISHES_IN_FLIGHT_MAX: Final = 16384
PING_INTERVAL_S: Final = 5
PING_MAX_OUT: Final = 88
DISCOVER_PREFIX: Final = "_STAN.discover"
MAX_IN_FLIGHT: Final = 1024
ACK_WAIT_S: Final = 30.0

_NS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class StartAt:
    """The message that a new subscription starts with; a durable one that goes on has its own."""

    position: StartPosition = StartPosition.NEW_ONLY
    start_sequence: int = 0
    time_ns: int = 0  # nanoseconds since 1970

    @classmethod
    def new_only(cls) -> Self:
        """The next message that is published."""
        return cls()

    @classmethod
    def last_received(cls) -> Self:
        """The newest message that the channel holds."""
        return cls(StartPosition.LAST_RECEIVED)

    @classmethod
    def all_available(cls) -> Self:
        """The oldest message that the channel holds."""
        return cls(StartPosition.FIRST)

    @classmethod
    def sequence(cls, sequence: int) -> Self:
        """The message with this sequence, or the nearest one that is still held."""
        return cls(StartPosition.SEQUENCE, start_sequence=sequence)

    @classmethod
    def time(cls, start: datetime) -> Self:
        """The first message from this time on. A time without a zone is local."""
        return cls(StartPosition.TIME_DELTA, time_ns=int(start.timestamp() * _NS))

    @classmethod
    def time_delta(cls, ago: timedelta) -> Self:
        """The first message of the time between so long ago and now."""
        return cls(StartPosition.TIME_DELTA, time_ns=time.time_ns() - ago // _MICROSECOND * 1000)


_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """What a connection is, but for the NATS connection below it and its callbacks."""

    cluster_id: str
    client_id: str
    connect_wait_s: float
    publish_wait_s: float
    publishes_in_flight_max: int
    ping_interval_s: int
    ping_max_out: int
    discover_prefix: str

    def __post_init__(self) -> None:
        """Raises ValueError for what can never work."""
        if self.ping_interval_s < 1 or self.ping_max_out < 2:
            raise ValueError(
                f"invalid ping values: ping_interval_s={self.ping_interval_s} (at least 1), "
                f"ping_max_out={self.ping_max_out} (at least 2)"
            )
        if self.publishes_in_flight_max < 1:
            raise ValueError("publishes_in_flight_max must be at least 1")


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """What a subscription is."""

    channel: str
    queue_group: str
    durable_name: str
    start: StartAt
    max_in_flight: int
    ack_wait_s: float
    manual_ack: bool
