"""The embedded store: a directory of parts, each with segment files and an SQLite database.

    DIR/clients.db         the lead's: server and clients         DIR/clients.lock
    DIR/p00 ... DIR/p15    the parts: lock, state.db, and a directory of segments per channel

A commit takes everything that is queued, hands it to one thread, and that thread writes: the logs
(several at once, each its own sync), then the databases, then it removes what is no longer kept.
What arrives meanwhile goes into the next commit. What cannot be written is taken back, its
publishers are told, and the next commit tries again, so a disk that was full needs nobody.
"""

import contextlib
import errno
import fcntl
import logging
import os
import queue
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shardd.config.streaming import FileOptions
from shardd.errors import StoreError
from shardd.streaming.batch import LogHome
from shardd.streaming.file_commit import (
    Commit,
    CommitWriter,
    OnDone,
    Sync,
    remove_segment,
    sync_segments,
)
from shardd.streaming.file_log import FileLog
from shardd.streaming.file_recovery import (
    clamp,
    directory_name,
    recover_part,
)
from shardd.streaming.log import ChannelLog
from shardd.streaming.state_db import Kept, LeadChanges, LeadDatabase, PartChanges, PartDatabase
from shardd.streaming.store import (
    ClientRow,
    CommitResult,
    Recovered,
    RecoveredChannel,
    ServerRow,
    Store,
    SubscriptionRow,
)
from shardd.streaming.subjects import partition_of, shown
from shardd.streaming.write_job import reason_of, sync_directory

logger = logging.getLogger("shardd.streaming.file_store")

LEAD_DATABASE: Final = "clients.db"
LEAD_LOCK: Final = "clients.lock"
PART_DATABASE: Final = "state.db"
PART_LOCK: Final = "lock"
GROUP_LOCK: Final = ".rootdir.lck"  # as in the original's directory
FOREIGN_FILE: Final = "server.dat"  # what the original server has in its directory

_TICK_S: Final = 1.0
_OPENERS: Final = 8  # threads that open parts at a start
_LOCK_POLL_S: Final = 0.05
_RETRY_S: Final = 1.0  # after rows could not be written


@dataclass(slots=True)
class _Part:
    directory: Path
    lock: int
    database: PartDatabase
    changes: PartChanges = field(default_factory=PartChanges)
    has_kept: bool = False  # rows of what was kept when it was closed the last time


def part_name(part: int) -> str:
    """The directory of a part."""
    return f"p{part:02d}"


def take_lock(path: Path, what: str, wait_s: float = 0.0) -> int:
    """An open file that is locked until it is closed; waits so long for who has it.

    Raises:
        StoreError: another process has the lock, or the file cannot be opened.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from None
    until_s = time.monotonic() + wait_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < until_s:
                time.sleep(_LOCK_POLL_S)
                continue
            os.close(fd)
            raise StoreError(f"{path}: another process uses {what}: end it first") from None
        except OSError as error:
            os.close(fd)
            raise StoreError(f"{path}: {error.strerror}") from None
        return fd


class FileStore(Store):
    """The parts that one streaming worker has opened. Owned by its event loop.

    Args:
        directory: where the store is, or will be.
        parts: those to open.
        options: durability and sizes.
        is_lead: whether the server's and the clients' rows are kept here.
        call_soon: has the event loop call something, and may be called from any thread
            (`loop.call_soon_threadsafe`).
        lock_s: how long to wait for parts that another process has.
    """

    def __init__(
        self,
        directory: Path,
        parts: Sequence[int],
        options: FileOptions,
        *,
        is_lead: bool,
        call_soon: Callable[[Callable[[], object]], object],
        lock_s: float = 0.0,
    ) -> None:
        self._directory = directory.absolute()
        self._numbers = tuple(parts)
        self._options = options
        self._is_lead = is_lead
        self._call_soon = call_soon
        self._home = LogHome(options, self._start_ticking, self._ask_to_release)
        self._parts: dict[int, _Part] = {}
        self._lock_s = lock_s
        self._group_lock = -1
        self._lead_lock = -1
        self._lead: LeadDatabase | None = None
        self._lead_changes = LeadChanges()
        self._logs: dict[bytes, FileLog] = {}
        self._deleted: list[FileLog] = []
        self._failing: set[bytes] = set()  # channels whose last commit failed
        self._committing: Commit | None = None
        self._is_state_failing = False
        self._retry_at_s = 0.0
        self._unsynced: dict[FileLog, float] = {}
        self._unmade: list[FileLog] = []  # new channels that could not be written yet
        self._tasks: queue.SimpleQueue[Commit | Sync | str] = queue.SimpleQueue()
        self._ended: deque[Commit | Sync] = deque()
        self._is_ticking = False
        self._thread: threading.Thread | None = None
        self._writer = CommitWriter({}, None, is_synced=options.sync)

    # --- opening ---------------------------------------------------------------------------------

    def try_lock(self) -> bool:
        """A POSIX lock, which ends with the process; the file must not be opened twice in it."""
        path = self._directory / GROUP_LOCK
        try:
            if self._group_lock < 0:
                os.makedirs(self._directory, 0o750, exist_ok=True)
                self._group_lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            fcntl.lockf(self._group_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES) and self._group_lock >= 0:
                return False
            raise StoreError(f"{path}: {error.strerror}") from None
        return True

    def recover(self) -> Recovered:
        """Opens the parts and reads everything."""
        try:
            return self._recover()
        except OSError as error:
            self._release()
            raise StoreError(f"{error.filename or self._directory}: {error.strerror}") from None
        except BaseException:
            self._release()
            raise

    def _recover(self) -> Recovered:
        if (self._directory / FOREIGN_FILE).exists():
            raise StoreError(
                f"{self._directory}: a store of the original server: copy it with"
                " `shardd stream import`, it cannot be used as it is"
            )
        repairs: list[str] = []
        server: ServerRow | None = None
        clients: tuple[ClientRow, ...] = ()
        os.makedirs(self._directory, 0o750, exist_ok=True)
        if not os.access(self._directory, os.W_OK):
            raise StoreError(
                f"{self._directory}: cannot be written: no permission, or a read-only file system"
            )
        if self._is_lead:
            self._lead_lock = take_lock(self._directory / LEAD_LOCK, "this store", self._lock_s)
            self._lead = LeadDatabase(self._directory / LEAD_DATABASE)
            server, clients = self._lead.server(), tuple(self._lead.clients())
        channels: list[RecoveredChannel] = []
        last_ids: dict[int, int] = {}
        # Each waits for the disk several times: what they wait for is done at once.
        with ThreadPoolExecutor(_OPENERS, "open") as openers:
            list(openers.map(self._open_part, self._numbers))
        for number in self._numbers:
            channels += self._read_part(number, repairs)
            last_ids[number] = self._parts[number].database.last_id()
        databases = {number: part.database for number, part in self._parts.items()}
        self._writer = CommitWriter(databases, self._lead, is_synced=self._options.sync)
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()
        return Recovered(server, clients, tuple(channels), last_ids, tuple(repairs))

    def _open_part(self, number: int) -> None:
        """Lock a part and open its database. Called in several threads at once."""
        directory = self._directory / part_name(number)
        if not directory.exists():
            directory.mkdir(0o750)
            sync_directory(str(self._directory))
        lock = take_lock(directory / PART_LOCK, "this part of the store", self._lock_s)
        try:
            database = PartDatabase(directory / PART_DATABASE)
        except BaseException:
            os.close(lock)
            raise
        self._parts[number] = _Part(directory, lock, database)
        database.take_token()

    def _read_part(self, number: int, repairs: list[str]) -> list[RecoveredChannel]:
        part = self._parts[number]
        directory, database = part.directory, part.database
        rows, kept = database.subscriptions(), database.kept()
        part.has_kept = bool(kept)
        channels = []
        for found in recover_part(directory, repairs, repair=self._options.repair):
            log = FileLog(self._home, found.name, found.directory)
            log.recover(found.segments)
            if found.name in kept:
                before = kept[found.name]
                log.keep_from(before.first, before.last, before.bytes)
            self._logs[found.name] = log
            subscriptions = tuple(
                clamp(found.name, log.last, row, repairs) for row in rows.pop(found.name, ())
            )
            channels.append(RecoveredChannel(log, subscriptions))
        # Of channels that were deleted when the process died.
        part.changes.deleted.update(rows)
        return channels

    # --- channels --------------------------------------------------------------------------------

    def create_channel(self, name: bytes) -> ChannelLog:
        """A new, empty log."""
        if name in self._logs:
            raise StoreError("the channel exists already")
        part = self._parts[partition_of(name)]
        directory = part.directory / directory_name(name)
        taken = {log.directory for log in self._deleted}
        if self._committing is not None:
            taken.update(log.directory for log in self._committing.deleted)
        stem, number = str(directory), 1
        path = stem
        while path in taken or os.path.exists(path):
            # The one before it is still being deleted.
            path, number = f"{stem}~{number}", number + 1
        try:
            os.mkdir(path, 0o750)
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            logger.error("cannot make %s: %s", path, reason)
            raise StoreError(f"the channel could not be created: {reason}") from None
        log = FileLog(self._home, name, path)
        log.create()
        self._logs[name] = log
        return log

    def delete_channel(self, name: bytes) -> None:
        """Forgets a channel with its messages and subscriptions, with the next commit."""
        log = self._logs.pop(name, None)
        self._parts[partition_of(name)].changes.delete(name)
        self._failing.discard(name)
        if log is not None:
            log.delete()
            self._unsynced.pop(log, None)
            self._deleted.append(log)

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
        self._parts[partition_of(channel)].changes.save(channel, row)
        self._retry_at_s = 0.0

    def forget_subscription(self, channel: bytes, subscription_id: int) -> None:
        """Removes by id."""
        self._parts[partition_of(channel)].changes.forget((channel, subscription_id))
        self._retry_at_s = 0.0

    def save_position(
        self, channel: bytes, subscription_id: int, last_sent: int, pending: Sequence[int]
    ) -> None:
        """How far a subscription is."""
        changes = self._parts[partition_of(channel)].changes
        changes.move((channel, subscription_id), last_sent, tuple(pending))

    # --- committing ------------------------------------------------------------------------------

    @property
    def has_changes(self) -> bool:
        """Whether a commit would have something to do."""
        if self._home.dirty or self._home.dropped or self._home.purged:
            return True
        return self._has_state() and time.monotonic() >= self._retry_at_s

    def _has_state(self) -> bool:
        changed = self._deleted or self._lead_changes
        return bool(changed or any(part.changes for part in self._parts.values()))

    @property
    def is_committing(self) -> bool:
        """Whether a commit is under way."""
        return self._committing is not None

    def commit(self, on_done: OnDone) -> None:
        """Begins to write all that is queued."""
        if self._committing is not None:
            raise StoreError("a commit is under way")
        self._committing = self._collect(on_done)
        self._tasks.put(self._committing)

    def _collect(self, on_done: OnDone | None) -> Commit:
        dirty = self._home.take_dirty()
        is_kept_open = len(dirty) <= self._home.descriptors_max // 2
        started = (log.start_write(is_kept_open) for log in dirty)
        jobs = [job for job in started if job is not None]
        for log in self._home.take_purged():
            if not log.is_deleted:
                part = self._parts[partition_of(log.name)]
                part.changes.firsts[log.name] = log.first
                part.has_kept = True
        parts = {number: part.changes for number, part in self._parts.items() if part.changes}
        for number in parts:
            self._parts[number].changes = PartChanges()
        commit = Commit(
            on_done, jobs, self._deleted, parts, self._lead_changes, self._home.take_dropped()
        )
        self._deleted, self._lead_changes = [], LeadChanges()
        return commit

    def _run(self) -> None:
        """The thread: one commit after the other, and a tick every second while there is need."""
        tick_at_s = 0.0
        while True:
            wait_s = max(tick_at_s - time.monotonic(), 0.0) if tick_at_s else None
            try:
                task = self._tasks.get(timeout=wait_s)
            except queue.Empty:
                tick_at_s = 0.0
                self._tell(self._tick)
                continue
            if task == "end":
                return
            if task == "tick":
                tick_at_s = tick_at_s or time.monotonic() + _TICK_S
                continue
            if isinstance(task, Commit):
                self._writer.write(task)
            elif isinstance(task, Sync):
                sync_segments(task)
            self._ended.append(task)  # type: ignore[arg-type]
            self._tell(self._finish)

    def _tell(self, callback: Callable[[], object]) -> None:
        # The loop may have been closed before the store: `close` finishes what is left.
        with contextlib.suppress(RuntimeError):
            self._call_soon(callback)

    def _finish(self) -> None:
        """In the event loop: what has ended becomes visible."""
        while self._ended:
            task = self._ended.popleft()
            if isinstance(task, Commit):
                self._finish_commit(task)
            else:
                self._finish_sync(task)

    def _finish_commit(self, commit: Commit) -> None:
        failed: dict[bytes, str] = {}
        for job in commit.jobs:
            log = job.log
            log.end_write(job)
            if log.is_deleted:
                continue
            if job.error is not None:
                failed[log.name] = reason_of(job.error)
                self._note_failure(log, job.error)
                if not log.is_made:
                    self._unmade.append(log)
                    self._start_ticking()
            elif log.name in self._failing:
                self._failing.discard(log.name)
                logger.info("channel %s can be written again", shown(log.name))
            if not self._options.sync:
                self._unsynced.setdefault(log, time.monotonic())
        self._put_back(commit)
        if self._unsynced:
            self._start_ticking()
        self._committing = None
        if commit.on_done is not None:
            commit.on_done(CommitResult(failed, commit.state_error))

    def _note_failure(self, log: FileLog, error: OSError) -> None:
        if log.name not in self._failing:
            self._failing.add(log.name)
            logger.error(
                "%s: cannot be written: %s; publishers to channel %s are refused until it can",
                log.directory,
                os.strerror(error.errno).lower() if error.errno else error,
                shown(log.name),
            )

    def _put_back(self, commit: Commit) -> None:
        """Rows that could not be written are queued again, and tried again a little later."""
        for number, changes in commit.failed_parts.items():
            self._parts[number].changes.put_back(changes)
        if commit.failed_lead is not None:
            self._lead_changes.put_back(commit.failed_lead)
        self._deleted = commit.failed_deletions + self._deleted
        if commit.state_error:
            self._retry_at_s = time.monotonic() + _RETRY_S
            self._start_ticking()
            if not self._is_state_failing:
                logger.error("%s: %s", self._directory, commit.state_error)
        elif self._is_state_failing and (commit.parts or commit.lead or commit.deleted):
            logger.info("%s: the state can be written again", self._directory)
        if commit.state_error or commit.parts or commit.lead or commit.deleted:
            self._is_state_failing = bool(commit.state_error)

    # --- once a second, while there is something -------------------------------------------------

    def _start_ticking(self) -> None:
        if not self._is_ticking:
            self._is_ticking = True
            self._tasks.put("tick")

    def _tick(self) -> None:
        self._is_ticking = False
        is_warm = self._home.sweep()
        for log in self._unmade:
            # Subscriptions may hang on it though nobody publishes.
            log.create()
        self._unmade.clear()
        if self._unsynced and self._options.auto_sync_s > 0:
            self._sync_old()
        if is_warm or self._unsynced or self._retry_at_s > time.monotonic():
            self._start_ticking()

    def _sync_old(self) -> None:
        due_s = time.monotonic() - self._options.auto_sync_s
        logs = [log for log, since_s in self._unsynced.items() if since_s <= due_s]
        segments = [(segment, segment.end) for log in logs for segment in log.unsynced()]
        for log in logs:
            del self._unsynced[log]
        if segments:
            self._tasks.put(Sync(segments))

    def _finish_sync(self, task: Sync) -> None:
        for failure in task.failures:
            logger.error("%s: messages that were acknowledged may be lost", failure)
        for segment, end in task.segments:
            segment.was_written(end)

    def _ask_to_release(self) -> None:
        self._call_soon(self._home.release_retired)

    # --- closing ---------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends a commit that is under way, writes what is queued, and lets go of everything."""
        if self._thread is not None:
            self._tasks.put("end")
            self._thread.join()
            self._thread = None
            self._finish()
            if self.has_changes or self._has_state():
                commit = self._collect(None)
                self._writer.write(commit)
                self._finish_commit(commit)
            for path in self._home.take_dropped():
                remove_segment(path)
        self._save_kept()
        for log in self._logs.values():
            try:
                for segment in log.unsynced():
                    segment.sync()
                log.close()
            except (OSError, StoreError) as error:
                # Only the next start takes longer for want of a sidecar; a sync is more.
                logger.warning("%s: not closed cleanly: %s", log.directory, error)
        self._release()

    def _save_kept(self) -> None:
        kept: dict[int, dict[bytes, Kept]] = {number: {} for number in self._parts}
        for name, log in self._logs.items():
            if log.has_dropped():
                kept[partition_of(name)][name] = Kept(log.first, log.last, log.bytes)
        for number, of_part in kept.items():
            part = self._parts[number]
            if of_part or part.has_kept:
                try:
                    part.database.save_kept(of_part)
                except sqlite3.Error as error:
                    logger.warning("%s: not closed cleanly: %s", part.directory, error)

    def _release(self) -> None:
        self._writer.close()
        for part in self._parts.values():
            part.database.close()
            os.close(part.lock)
        self._parts.clear()
        self._logs.clear()
        if self._lead is not None:
            self._lead.close()
            self._lead = None
        if self._lead_lock >= 0:
            os.close(self._lead_lock)
            self._lead_lock = -1
        if self._group_lock >= 0:
            os.close(self._group_lock)
            self._group_lock = -1
