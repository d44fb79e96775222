"""The PostgreSQL store: logs, subscriptions, clients and the server in one database.

Several streaming workers, on one host or on several, share a database; each owns its parts
(`postgres_session`). What is appended is seen by the event loop at once and by nobody else; a
commit hands all that is queued to the store's thread, which writes it in one transaction. When that
has ended the messages are shown and publishers are answered. What nobody will read any more is
removed later, in transactions of its own.

While the database is gone publishers are refused, what was committed and is in memory is still
delivered, and rows and positions stay queued.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import psycopg

from shardd.config.streaming import SqlOptions
from shardd.errors import StoreError, StoreUnavailableError
from shardd.streaming.log import ChannelLog
from shardd.streaming.postgres_commit import Clean, Commit, First, Grave, Load, OnDone
from shardd.streaming.postgres_log import PostgresHome, PostgresLog
from shardd.streaming.postgres_recovery import read_all
from shardd.streaming.postgres_session import LEAD_PART, LOCK_S, ConnectionLostError, Session
from shardd.streaming.postgres_thread import UNREACHABLE, DatabaseThread, Watchman
from shardd.streaming.state_db import LeadChanges, PartChanges
from shardd.streaming.store import (
    ClientRow,
    CommitResult,
    Recovered,
    ServerRow,
    Store,
    SubscriptionRow,
)
from shardd.streaming.subjects import PARTITIONS, partition_of, shown

logger = logging.getLogger("shardd.streaming.postgres_store")

CACHED_BYTES: Final = 64 << 20  # of messages in memory, for one worker

_RETRY_S: Final = 1.0  # after rows could not be written
_CLEANED_AT_ONCE: Final = 64  # channels


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a store holds in memory."""

    channels: int
    cached_bytes: int  # of messages
    is_connected: bool


class PostgresStore(Store):
    """Owned by one streaming worker, called in its event loop.

    Args:
        options: where the database is.
        parts: the parts of the store that are this worker's.
        is_lead: whether it keeps the server and the clients as well.
        call_soon: calls what it is given in the event loop; used by the store's thread.
        cached_bytes: how many bytes of messages to hold in memory.
        lock_s: how long to wait for parts that another process has.
        is_exclusive: end at once when the database cannot be asked any more, instead of waiting
            for it: another server may be about to take over.

    Raises:
        StoreError: the options are wrong.
    """

    def __init__(
        self,
        options: SqlOptions,
        parts: Sequence[int],
        *,
        is_lead: bool,
        call_soon: Callable[[Callable[[], object]], object],
        cached_bytes: int = CACHED_BYTES,
        lock_s: float = LOCK_S,
        is_exclusive: bool = False,
    ) -> None:
        self._numbers = list(parts)
        self._is_lead = is_lead
        owned = [*self._numbers, LEAD_PART] if is_lead else self._numbers
        self._session = Session(options.source, owned, lock_s)
        self._is_exclusive = is_exclusive
        self._call_soon = call_soon
        self._home = PostgresHome(cached_bytes, self._on_load, self._on_moved)
        self._thread: DatabaseThread | None = None
        self._watchman: Watchman | None = None
        self._logs: dict[bytes, PostgresLog] = {}
        self._ids: dict[int, int] = {}  # the highest channel id, by part
        self._parts = {number: PartChanges() for number in self._numbers}
        self._lead_changes = LeadChanges()
        self._created: list[PostgresLog] = []
        self._deleted: list[PostgresLog] = []
        self._doubtful: set[PostgresLog] = set()
        self._graves: list[Grave] = []
        self._committing: Commit | None = None
        self._is_cleaning = False
        self._is_failing = False
        self._has_asked = False  # `_work` will be called
        self._retry_at_s = 0.0

    @property
    def is_fenced(self) -> bool:
        """The tokens of the parts see to it."""
        return True

    def try_lock(self) -> bool:
        """The lead's part of the database, which ends with the session."""
        self._begin_watch()
        return self._session.try_lead()

    def _begin_watch(self) -> None:
        if self._watchman is None:
            self._watchman = Watchman(self._session)

    def _end_watch(self) -> None:
        if self._watchman is not None:
            self._watchman.end()
            self._watchman = None

    def recover(self) -> Recovered:
        """Takes the parts and reads everything.

        Raises:
            StoreUnavailableError: the database cannot be reached now.
            StoreError: something that the operator has to change.
        """
        self._begin_watch()
        try:
            return self._recover()
        except StoreError:
            self._end_watch()
            raise

    def _recover(self) -> Recovered:
        self._session.open()
        try:
            found = read_all(self._session, self._numbers, self._home, is_lead=self._is_lead)
        except psycopg.Error as error:
            self._session.close()
            raise StoreError(f"{self._session.place}: {self._session.reason(error)}") from None
        except ConnectionLostError as error:
            raise StoreUnavailableError(f"{self._session.place}: {error}") from None
        except StoreError:
            self._session.close()
            raise
        for channel in found.channels:
            assert isinstance(channel.log, PostgresLog)
            self._logs[channel.log.name] = channel.log
        self._ids = found.channel_ids
        self._graves = found.graves
        self._thread = DatabaseThread(
            self._session,
            on_ended=lambda: self._later(self._finish),
            on_fenced=lambda: self._later(self._end),
            is_exclusive=self._is_exclusive,
        )
        self._thread.start()
        if self._graves:
            self._on_moved()
        return Recovered(
            server=found.server,
            clients=found.clients,
            channels=tuple(found.channels),
            last_ids=found.last_ids,
            repairs=tuple(found.repairs),
        )

    def statistics(self) -> Statistics:
        """What is held now."""
        return Statistics(len(self._logs), self._home.cached, self._session.is_open)

    # --- channels --------------------------------------------------------------------------------

    def create_channel(self, name: bytes) -> ChannelLog:
        """A new, empty log."""
        if name in self._logs:
            raise StoreError("the channel exists already")
        part = partition_of(name)
        # Numbers that say which part they are of: each owner gives its own.
        number = (self._ids.get(part, 0) // PARTITIONS + 1) * PARTITIONS + part
        self._ids[part] = number
        log = PostgresLog(self._home, name, number)
        self._logs[name] = log
        self._created.append(log)
        self._retry_at_s = 0.0
        return log

    def delete_channel(self, name: bytes) -> None:
        """Forgets a channel with its messages and subscriptions, with the next commit."""
        self._parts[partition_of(name)].delete(name)
        log = self._logs.pop(name, None)
        if log is not None:
            log.is_deleted = True
            self._home.forget(log)
            self._doubtful.discard(log)
            self._created = [each for each in self._created if each is not log]
            self._deleted.append(log)
        self._retry_at_s = 0.0

    # --- rows ------------------------------------------------------------------------------------

    def save_server(self, row: ServerRow) -> None:
        """Queued for the next commit, as the following ones are."""
        self._lead_changes.server = row
        self._retry_at_s = 0.0

    def save_client(self, row: ClientRow) -> None:
        """Adds or replaces by client id."""
        self._lead_changes.clients[row.client_id] = row
        self._retry_at_s = 0.0

    def forget_client(self, client_id: str) -> None:
        """Removes by client id."""
        self._lead_changes.clients[client_id] = None
        self._retry_at_s = 0.0

    def save_subscription(self, channel: bytes, row: SubscriptionRow) -> None:
        """Adds or replaces by id, position included."""
        self._parts[partition_of(channel)].save(channel, row)
        self._retry_at_s = 0.0

    def forget_subscription(self, channel: bytes, subscription_id: int) -> None:
        """Removes by id."""
        self._parts[partition_of(channel)].forget((channel, subscription_id))
        self._retry_at_s = 0.0

    def save_position(
        self, channel: bytes, subscription_id: int, last_sent: int, pending: Sequence[int]
    ) -> None:
        """How far a subscription is."""
        key = channel, subscription_id
        self._parts[partition_of(channel)].move(key, last_sent, tuple(pending))

    # --- committing ------------------------------------------------------------------------------

    @property
    def has_changes(self) -> bool:
        """Whether a commit would have something to do."""
        if self._home.changed:
            return True
        return self._has_state() and time.monotonic() >= self._retry_at_s

    def _has_state(self) -> bool:
        changed = self._created or self._deleted or self._home.purged or self._lead_changes
        return bool(changed or any(self._parts.values()))

    @property
    def is_committing(self) -> bool:
        """Whether a commit is under way."""
        return self._committing is not None

    def commit(self, on_done: OnDone) -> None:
        """Begins to write all that is queued."""
        if self._committing is not None:
            raise StoreError("a commit is under way")
        assert self._thread is not None
        self._committing = self._collect(on_done)
        self._thread.put(self._committing)

    def _collect(self, on_done: OnDone | None) -> Commit:
        writes = [(log, *log.begin_commit()) for log in self._home.take_changed()]
        parts = {number: changes for number, changes in self._parts.items() if changes}
        for number in parts:
            self._parts[number] = PartChanges()
        names = {key[0] for each in parts.values() for key in (*each.rows, *each.positions)}
        commit = Commit(
            on_done=on_done,
            writes=writes,
            created=self._created,
            deleted=self._deleted,
            firsts=[_first(log) for log in self._home.take_purged()],
            undo={log: log.last for log in self._doubtful},
            parts=parts,
            lead=self._lead_changes,
            ids={name: self._logs[name].id for name in names if name in self._logs},
        )
        self._created, self._deleted, self._lead_changes = [], [], LeadChanges()
        return commit

    def _later(self, callback: Callable[[], object]) -> None:
        # The loop may have been closed before the store: `close` finishes what is left.
        with contextlib.suppress(RuntimeError):
            self._call_soon(callback)

    def _end(self) -> None:
        """Somebody else has taken over: this process remembers what is not so any more."""
        if self._thread is not None and self._thread.fenced is not None:
            raise self._thread.fenced

    def _finish(self) -> None:
        """In the event loop: what has ended becomes visible."""
        if self._thread is None:
            return
        ended = self._thread.ended
        while ended:
            task = ended.popleft()
            if isinstance(task, Commit):
                self._finish_commit(task)
            elif isinstance(task, Load):
                self._finish_load(task)
            else:
                self._finish_clean(task)
        self._home.sweep()

    def _finish_commit(self, commit: Commit) -> None:
        failed: dict[bytes, str] = {}
        text = f"the message could not be stored: {commit.error}"
        for log, sequence, _ in commit.writes:
            if not commit.error:
                log.end_commit(sequence)
                continue
            log.take_back()
            if not log.is_deleted:
                failed[log.name] = text
                if commit.is_doubtful:
                    self._doubtful.add(log)
        state_error = ""
        if commit.error:
            if commit.has_state:
                state_error = f"the state could not be stored: {commit.error}"
            self._put_back(commit)
            self._note_failure(commit.error)
        else:
            self._finish_state(commit)
        self._committing = None
        if commit.on_done is not None:
            commit.on_done(CommitResult(failed, state_error))

    def _finish_state(self, commit: Commit) -> None:
        for log in commit.undo:
            self._doubtful.discard(log)
        for log in commit.deleted:
            part = partition_of(log.name)
            self._graves.append(Grave(log.id, part, log.stored_first, log.appended))
        if commit.deleted:
            self._on_moved()
        if self._is_failing:
            self._is_failing = False
            logger.info("%s: can be written again", self._session.place)

    def _put_back(self, commit: Commit) -> None:
        """What could not be written is queued again, and tried again a little later."""
        for number, changes in commit.parts.items():
            self._parts[number].put_back(changes)
        self._lead_changes.put_back(commit.lead)
        self._created = [log for log in commit.created if not log.is_deleted] + self._created
        self._deleted = commit.deleted + self._deleted
        self._home.purged.update(each.log for each in commit.firsts if not each.log.is_deleted)
        self._retry_at_s = time.monotonic() + _RETRY_S

    def _note_failure(self, error: str) -> None:
        if not self._is_failing and error != UNREACHABLE:  # which the thread has said
            self._is_failing = True
            logger.error("%s: cannot be written: %s", self._session.place, error)

    # --- reading ---------------------------------------------------------------------------------

    def _on_load(self) -> None:
        if self._thread is not None:
            for log, first, last in self._home.take_loads():
                self._thread.put(Load(log, first, last))

    def _finish_load(self, task: Load) -> None:
        missing = task.log.loaded(task.first, task.last, task.rows)
        if missing:
            logger.error(
                "%s: channel %s: %d messages between %d and %d are not there any more",
                self._session.place,
                shown(task.log.name),
                missing,
                task.first,
                task.last,
            )

    # --- removing --------------------------------------------------------------------------------

    def _on_moved(self) -> None:
        """A log has dropped something; others may do so before this turn of the loop is over."""
        if not self._has_asked and not self._is_cleaning:
            self._has_asked = True
            self._later(self._clean)

    def _clean(self) -> None:
        self._has_asked = False
        if self._thread is None or self._is_cleaning:
            return
        logs = [log for log in self._home.take_moved() if not log.is_deleted]
        now, later = logs[:_CLEANED_AT_ONCE], logs[_CLEANED_AT_ONCE:]
        self._home.moved.update(later)
        if now or self._graves:
            self._is_cleaning = True
            graves = self._graves[:_CLEANED_AT_ONCE]
            self._thread.put(Clean([_first(log) for log in now], graves))

    def _finish_clean(self, task: Clean) -> None:
        self._is_cleaning = False
        done = {log for log, _ in task.done}
        for log, sequence in task.done:
            log.cleaned(sequence)
        self._home.moved.update(
            each.log for each in task.firsts if each.log not in done and not each.log.is_deleted
        )
        self._graves = [grave for grave in self._graves if grave.first <= grave.last]
        if self._home.moved or self._graves:
            self._on_moved()

    # --- closing ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends a commit that is under way, writes what is queued, and lets go of everything."""
        if self._thread is not None:
            self._thread.end()
            self._finish()
            self._home.purged.update(log for log in self._home.moved if not log.is_deleted)
            if self._home.changed or self._has_state():
                commit = self._collect(None)
                self._thread.run_now(commit)
                if commit.error:
                    logger.error(
                        "%s: not closed cleanly, what was queued is lost: %s",
                        self._session.place,
                        commit.error,
                    )
                self._finish_commit(commit)
            self._thread = None
        self._session.close(is_clean=True)
        self._end_watch()
        self._logs.clear()


def _first(log: PostgresLog) -> First:
    return First(log, log.first, log.last, log.last_timestamp_ns)
