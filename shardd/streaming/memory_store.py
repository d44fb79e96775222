"""The store that forgets everything on exit: the original's default.

A commit ends in the next turn of the event loop, so that everything happens in the same order as
with a store that waits for a disk.
"""

from collections.abc import Callable, Sequence

from shardd.errors import StoreError
from shardd.streaming.log import ChannelLog
from shardd.streaming.memory_log import MemoryLog
from shardd.streaming.store import (
    ClientRow,
    CommitResult,
    Recovered,
    ServerRow,
    Store,
    SubscriptionRow,
)
from shardd.streaming.subjects import PARTITIONS


class MemoryStore(Store):
    """Logs in memory, and nothing else: rows are the core's own business while it runs.

    Args:
        call_soon: calls what it is given in the next turn of the event loop.
    """

    def __init__(self, call_soon: Callable[[Callable[[], object]], object]) -> None:
        self._call_soon = call_soon
        self._changed: list[MemoryLog] = []
        self._names: set[bytes] = set()
        self._has_rows = False
        self._is_committing = False

    def recover(self) -> Recovered:
        """There is never anything."""
        last_ids = dict.fromkeys(range(PARTITIONS), 0)
        return Recovered(server=None, clients=(), channels=(), last_ids=last_ids)

    def create_channel(self, name: bytes) -> ChannelLog:
        """A new, empty log."""
        if name in self._names:
            raise StoreError("the channel exists")
        self._names.add(name)
        return MemoryLog(name, self._note_changed)

    def _note_changed(self, log: MemoryLog) -> None:
        self._changed.append(log)

    def delete_channel(self, name: bytes) -> None:
        """The log goes when nobody holds it any more."""
        self._names.discard(name)
        self._changed = [log for log in self._changed if log.name != name]
        self._has_rows = True

    def save_server(self, row: ServerRow) -> None:
        """Kept nowhere, as all rows are."""
        self._has_rows = True

    def save_client(self, row: ClientRow) -> None:
        """Kept nowhere."""
        self._has_rows = True

    def forget_client(self, client_id: str) -> None:
        """Kept nowhere."""
        self._has_rows = True

    def save_subscription(self, channel: bytes, row: SubscriptionRow) -> None:
        """Kept nowhere."""
        self._has_rows = True

    def forget_subscription(self, channel: bytes, subscription_id: int) -> None:
        """Kept nowhere."""
        self._has_rows = True

    def save_position(
        self, channel: bytes, subscription_id: int, last_sent: int, pending: Sequence[int]
    ) -> None:
        """Kept nowhere, and not worth a commit."""

    @property
    def has_changes(self) -> bool:
        """Whether somebody waits for a commit."""
        return self._has_rows or bool(self._changed)

    @property
    def is_committing(self) -> bool:
        """Until the next turn of the event loop."""
        return self._is_committing

    def commit(self, on_done: Callable[[CommitResult], None]) -> None:
        """Shows what was appended, in the next turn."""
        parts = [(log, log.begin_commit()) for log in self._changed]
        self._changed = []
        self._has_rows = False
        self._is_committing = True

        def end() -> None:
            self._is_committing = False
            for log, sequence in parts:
                log.end_commit(sequence)
            on_done(CommitResult())

        self._call_soon(end)

    def close(self) -> None:
        """Nothing is held."""
