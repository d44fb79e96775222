"""The part of a commit that is done off the event loop: logs, then databases, then removals.

A `Commit` is handed to the thread that writes, which fills in what failed and hands it back. The
logs of many channels are written by several threads at once, because each waits for its own sync.
"""

import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from shardd.streaming.file_log import FileLog
from shardd.streaming.file_recovery import DELETED_SUFFIX
from shardd.streaming.segment import SIDECAR_SUFFIX, SUFFIX, Segment
from shardd.streaming.state_db import LeadChanges, LeadDatabase, PartChanges, PartDatabase
from shardd.streaming.store import CommitResult
from shardd.streaming.write_job import WriteJob, sync_directory

logger = logging.getLogger("shardd.streaming.file_store")

OnDone = Callable[[CommitResult], None]

_WRITERS: Final = 8  # logs that are written at once


@dataclass(slots=True)
class Commit:
    """What one commit does; the thread fills in how it went."""

    on_done: OnDone | None
    jobs: list[WriteJob]
    deleted: list[FileLog]
    parts: dict[int, PartChanges]
    lead: LeadChanges
    dropped: list[str]
    failed_parts: dict[int, PartChanges] = field(default_factory=dict)
    failed_lead: LeadChanges | None = None
    failed_deletions: list[FileLog] = field(default_factory=list)
    state_error: str = ""


@dataclass(slots=True)
class Sync:
    """Segments to have on disk, written without that."""

    segments: list[tuple[Segment, int]]
    failures: list[str] = field(default_factory=list)


class CommitWriter:
    """Writes commits, one at a time: in the thread of the store, or while it is being closed.

    Args:
        parts: the databases of the parts.
        lead: the lead's database, if this is the lead.
        is_synced: whether everything is on disk when a commit ends.
    """

    def __init__(
        self, parts: Mapping[int, PartDatabase], lead: LeadDatabase | None, *, is_synced: bool
    ) -> None:
        self._parts = parts
        self._lead = lead
        self._is_synced = is_synced
        self._writers: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """End the threads."""
        if self._writers is not None:
            self._writers.shutdown()
            self._writers = None

    def write(self, commit: Commit) -> None:
        """Writes one. What nobody thought of fails this commit, and not the thread: jobs that were
        not done have failed, and rows may be written twice."""
        try:
            self._write(commit)
        except Exception as error:
            logger.exception("a commit ended unexpectedly")
            commit.failed_parts, commit.failed_lead = commit.parts, commit.lead
            commit.state_error = f"the state could not be stored: {error}"

    def _write(self, commit: Commit) -> None:
        """All of one commit. In the thread, or in the event loop while closing."""
        for log in commit.deleted:
            self._put_away(log, commit)
        if len(commit.jobs) > 1:
            if self._writers is None:
                self._writers = ThreadPoolExecutor(_WRITERS, thread_name_prefix="store")
            shares = [commit.jobs[index::_WRITERS] for index in range(_WRITERS)]
            list(self._writers.map(_run_jobs, [share for share in shares if share]))
        else:
            _run_jobs(commit.jobs)
        for number, changes in commit.parts.items():
            try:
                self._parts[number].write(changes, is_synced=self._is_synced)
            except sqlite3.Error as error:
                commit.failed_parts[number] = changes
                commit.state_error = f"the state could not be stored: {error}"
        if commit.lead and self._lead is not None:
            try:
                self._lead.write(commit.lead, is_synced=self._is_synced)
            except sqlite3.Error as error:
                commit.failed_lead = commit.lead
                commit.state_error = f"the state could not be stored: {error}"
        for path in commit.dropped:
            remove_segment(path)
        for log in commit.deleted:
            if log not in commit.failed_deletions:
                shutil.rmtree(log.directory + DELETED_SUFFIX, ignore_errors=True)

    def _put_away(self, log: FileLog, commit: Commit) -> None:
        """The channel is gone once its directory has another name."""
        try:
            shutil.rmtree(log.directory + DELETED_SUFFIX, ignore_errors=True)
            os.rename(log.directory, log.directory + DELETED_SUFFIX)
            if self._is_synced:
                sync_directory(os.path.dirname(log.directory))
        except FileNotFoundError:
            return
        except OSError as error:
            commit.failed_deletions.append(log)
            commit.state_error = f"a channel could not be deleted: {error.strerror}"


def _run_jobs(jobs: Sequence[WriteJob]) -> None:
    for job in jobs:
        job.run()


def remove_segment(path: str) -> None:
    """What is left behind is found and dropped again after the next start."""
    for name in (path, path.removesuffix(SUFFIX) + SIDECAR_SUFFIX):
        try:
            os.unlink(name)
        except FileNotFoundError:
            continue
        except OSError as error:
            logger.warning("%s: cannot be removed: %s", name, error.strerror)


def sync_segments(task: Sync) -> None:
    """Have segments on disk that were written without that."""
    for segment, _ in task.segments:
        try:
            fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
        except FileNotFoundError:
            continue  # it was dropped meanwhile
        except OSError as error:
            task.failures.append(f"{segment.path}: {error.strerror}")
