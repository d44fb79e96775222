"""A store for tests of the streaming core: it keeps what was committed, and fails on demand.

A commit ends when the test says so, well or badly. `crash` gives what a process that is started
anew would recover: whatever was committed, and nothing else.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shardd.errors import StoreError
from shardd.streaming.log import ChannelLog
from shardd.streaming.memory_log import MemoryLog
from shardd.streaming.store import (
    ClientRow,
    CommitResult,
    Recovered,
    RecoveredChannel,
    ServerRow,
    Store,
    SubscriptionRow,
)

Change = Callable[["Kept"], object]


@dataclass
class Kept:
    """What is on the disk, so to speak."""

    server: ServerRow | None = None
    clients: dict[str, ClientRow] = field(default_factory=dict)
    logs: dict[bytes, MemoryLog] = field(default_factory=dict)
    subscriptions: dict[bytes, dict[int, SubscriptionRow]] = field(default_factory=dict)


class StoreForTests(Store):
    """Commits when told to."""

    def __init__(self, kept: Kept | None = None) -> None:
        self.kept = kept or Kept()
        self.make_log: type[MemoryLog] = MemoryLog
        self.refuse_channels = ""  # the text with which no channel is made
        self._changes: list[Change] = []
        self._changed: list[MemoryLog] = []
        self._on_done: Callable[[CommitResult], None] | None = None
        self._under_way: tuple[list[Change], list[tuple[MemoryLog, int]]] = ([], [])
        self.commits = 0
        self.is_resting = False  # after a failure it does not want to write rows again at once

    def recover(self) -> Recovered:
        """What was committed."""
        kept = self.kept
        channels = []
        for name, log in kept.logs.items():
            log.take_back()
            # The log goes on in this store; its changes are to be noticed here.
            log.rebind(self._note_changed)
            rows = tuple(kept.subscriptions.get(name, {}).values())
            channels.append(RecoveredChannel(log, rows))
        return Recovered(
            server=kept.server,
            clients=tuple(kept.clients.values()),
            channels=tuple(channels),
            last_ids={},
        )

    def create_channel(self, name: bytes) -> ChannelLog:
        """A new log, unless refused."""
        if self.refuse_channels:
            raise StoreError(self.refuse_channels)
        log = self.make_log(name, self._note_changed)
        self._changes.append(lambda kept: kept.logs.update({name: log}))
        return log

    def _note_changed(self, log: MemoryLog) -> None:
        self._changed.append(log)

    def delete_channel(self, name: bytes) -> None:
        """With everything in it."""

        def change(kept: Kept) -> None:
            kept.logs.pop(name, None)
            kept.subscriptions.pop(name, None)

        self._changes.append(change)

    def save_server(self, row: ServerRow) -> None:
        """Queued."""

        def change(kept: Kept) -> None:
            kept.server = row

        self._changes.append(change)

    def save_client(self, row: ClientRow) -> None:
        """Queued."""
        self._changes.append(lambda kept: kept.clients.update({row.client_id: row}))

    def forget_client(self, client_id: str) -> None:
        """Queued."""
        self._changes.append(lambda kept: kept.clients.pop(client_id, None))

    def save_subscription(self, channel: bytes, row: SubscriptionRow) -> None:
        """Queued."""
        self._changes.append(
            lambda kept: kept.subscriptions.setdefault(channel, {}).update({row.id: row})
        )

    def forget_subscription(self, channel: bytes, subscription_id: int) -> None:
        """Queued."""
        self._changes.append(
            lambda kept: kept.subscriptions.get(channel, {}).pop(subscription_id, None)
        )

    def save_position(
        self, channel: bytes, subscription_id: int, last_sent: int, pending: Sequence[int]
    ) -> None:
        """Queued. Only a subscription that is there has a position."""
        sequences = tuple(pending)

        def change(kept: Kept) -> None:
            rows = kept.subscriptions.get(channel, {})
            rows[subscription_id] = rows[subscription_id].moved(last_sent, sequences)

        self._changes.append(change)

    @property
    def has_changes(self) -> bool:
        """Whether anything is queued."""
        return bool(self._changed or (self._changes and not self.is_resting))

    @property
    def is_committing(self) -> bool:
        """Until `finish`."""
        return self._on_done is not None

    def commit(self, on_done: Callable[[CommitResult], None]) -> None:
        """Begins; the test ends it."""
        assert self._on_done is None, "one commit at a time"
        assert self.has_changes
        self._on_done = on_done
        logs = [(log, log.begin_commit()) for log in self._changed]
        self._under_way = self._changes, logs
        self._changes, self._changed = [], []
        self.commits += 1

    def finish(self, failed: dict[bytes, str] | None = None, state_error: str = "") -> None:
        """Ends the commit that is under way."""
        assert self._on_done is not None, "no commit is under way"
        on_done, self._on_done = self._on_done, None
        changes, logs = self._under_way
        asked = failed or {}
        # Only what was to be written can fail.
        failed = {log.name: asked[log.name] for log, _ in logs if log.name in asked}
        for log, sequence in logs:
            if log.name in failed:
                log.take_back()
                self._changed = [each for each in self._changed if each is not log]
            else:
                log.end_commit(sequence)
        if state_error:
            self._changes = changes + self._changes
        else:
            for change in changes:
                change(self.kept)
        on_done(CommitResult(failed_channels=failed, state_error=state_error))

    def close(self) -> None:
        """Writes the rest."""
        if self.is_committing:
            self.finish()
        for change in self._changes:
            change(self.kept)
        for log in self._changed:
            log.end_commit(log.begin_commit())
