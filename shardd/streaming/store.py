"""What the streaming core asks of a store, and the rows that they exchange.

A store keeps the logs of channels and the small state beside them: who the server is, clients,
subscriptions, positions. One streaming worker opens it for the parts (`subjects.partition_of`)
that are its own. Everything is called from the event loop and returns at once: changes are queued,
and a commit writes all that is queued, off the loop, as one. Nothing may be answered to a client
before the commit that carries it has ended well.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from shardd.errors import StoreError
from shardd.streaming.log import ChannelLog


@dataclass(frozen=True, slots=True)
class ServerRow:
    """Who the server is, as the store remembers it."""

    cluster_id: str
    discover: bytes
    pub: bytes
    sub: bytes
    unsub: bytes
    sub_close: bytes
    close: bytes
    inbox_prefix: bytes  # `_INBOX.<unique>`: acks arrive at `<prefix>.<part>.<subscription>`
    # What an encrypted store knows its key by; none: payloads are not encrypted.
    key_check: bytes = b""


@dataclass(frozen=True, slots=True)
class ClientRow:
    """One connected client (sheet 3)."""

    client_id: str
    heartbeat_inbox: bytes
    connection_id: bytes = b""
    protocol: int = 0
    ping_interval_s: int = 0
    ping_max_out: int = 0


@dataclass(frozen=True, slots=True)
class SubscriptionRow:
    """One subscription, or the remains of a durable one whose owner is away (sheet 7, 13)."""

    id: int  # unique in its part, never given again
    client_id: str  # empty: a durable queue group without a member
    inbox: bytes
    ack_inbox: bytes
    max_in_flight: int
    ack_wait_s: int
    durable_name: str = ""  # empty for members of a durable queue group
    queue_group: str = ""  # `durable:queue` for a durable one
    last_sent: int = 0
    is_durable: bool = False
    is_closed: bool = False  # a durable that is offline
    pending: tuple[int, ...] = ()  # sequences sent and not acknowledged, rising
    # The heartbeat inbox of the connection that made it: another connection may have the client's
    # id when the row is read again. Empty: not known.
    owner: bytes = b""

    def moved(self, last_sent: int, pending: tuple[int, ...]) -> "SubscriptionRow":
        """The same with another position."""
        return replace(self, last_sent=last_sent, pending=pending)


@dataclass(frozen=True, slots=True)
class RecoveredChannel:
    """A channel that the store held when it was opened."""

    log: ChannelLog
    subscriptions: tuple[SubscriptionRow, ...]


@dataclass(frozen=True, slots=True)
class Recovered:
    """All that the store held in the parts it was opened for."""

    server: ServerRow | None
    clients: tuple[ClientRow, ...]
    channels: tuple[RecoveredChannel, ...]
    # The highest subscription id ever given in each part that was opened.
    last_ids: dict[int, int]
    # What was found damaged and mended, one line each, for the log.
    repairs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CommitResult:
    """How a commit ended. What failed has been taken back and is not in the store, whose log says
    so once."""

    # Channels whose appended messages are lost, with the text for their publishers.
    failed_channels: dict[bytes, str] = field(default_factory=dict)
    # Why rows of clients or subscriptions could not be written; they stay queued.
    state_error: str = ""


class Store(ABC):
    """One store, opened by one streaming worker. Errors that end it are StoreError."""

    @property
    def is_fenced(self) -> bool:
        """Whether nobody can write any more who has lost the lock."""
        return False

    def try_lock(self) -> bool:
        """Takes the lock of a store that several servers share, for as long as this process lives
        or until `close`; called before `recover`, by the lead, from any thread, and again until it
        succeeds. False: another process has it.

        Raises:
            StoreError: it cannot be tried; the next time it may.
        """
        raise StoreError("this store cannot be shared")

    @abstractmethod
    def recover(self) -> Recovered:
        """Reads everything; called once, first. Raises StoreError with what to do about it."""

    @abstractmethod
    def create_channel(self, name: bytes) -> ChannelLog:
        """A new, empty log. Raises StoreError: its text is what the client is told."""

    @abstractmethod
    def delete_channel(self, name: bytes) -> None:
        """Forgets a channel with its messages and subscriptions, with the next commit."""

    @abstractmethod
    def save_server(self, row: ServerRow) -> None:
        """Queued for the next commit, as the following ones are."""

    @abstractmethod
    def save_client(self, row: ClientRow) -> None:
        """Adds or replaces by client id."""

    @abstractmethod
    def forget_client(self, client_id: str) -> None:
        """Removes by client id."""

    @abstractmethod
    def save_subscription(self, channel: bytes, row: SubscriptionRow) -> None:
        """Adds or replaces by id, position included."""

    @abstractmethod
    def forget_subscription(self, channel: bytes, subscription_id: int) -> None:
        """Removes by id."""

    @abstractmethod
    def save_position(
        self, channel: bytes, subscription_id: int, last_sent: int, pending: Sequence[int]
    ) -> None:
        """How far a subscription is. Written with the next commit, which need not wait for the
        disk if there is nothing else in it: a position may be lost, a message may not."""

    @property
    @abstractmethod
    def has_changes(self) -> bool:
        """Whether a commit would have something to do."""

    @property
    @abstractmethod
    def is_committing(self) -> bool:
        """Whether a commit is under way: one at a time."""

    @abstractmethod
    def commit(self, on_done: Callable[[CommitResult], None]) -> None:
        """Begins to write all that is queued. `on_done` is called later, in the event loop, when
        the logs show what was committed. Never from within this call."""

    @abstractmethod
    def close(self) -> None:
        """Ends a commit that is under way, writes what is queued, and lets go of everything."""
