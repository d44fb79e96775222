"""The one thread of a PostgreSQL store: everything that waits for the database happens here, once
the store is open. Another one only sees to it that the wait ends, from the first connection on.

Commits come before reads, and reads before removals. While the database is gone commits fail at
once, reads and removals wait, and the thread tries to get a new connection, less and less often.
When a commit finds that the connection has ended since the last one, or loses it half way, it is
tried once more with a new one, and what may have been written of it is taken back first.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

import psycopg

from shardd.errors import StoreError, StoreUnavailableError
from shardd.streaming.postgres_commit import Clean, Commit, Load, clean, load, write
from shardd.streaming.postgres_session import ConnectionLostError, FencedError, Session

logger = logging.getLogger("shardd.streaming.postgres_store")

Task = Commit | Load | Clean

UNREACHABLE: Final = "the database cannot be reached"  # as publishers are told

_RETRY_S_MIN: Final = 0.1  # between attempts to get a connection
_RETRY_S_MAX: Final = 5.0
_PING_S: Final = 5.0  # without anything to do, until the connection is looked at
_WATCH_S: Final = 0.5  # between looks whether the database hangs
_CLEAN_S: Final = 0.25  # between removals, unless there is much to remove
_LATER_S: Final = 1.0  # until what failed with the connection alive is tried again


class Watchman:
    """Cuts the connection of a database that hangs, in a thread of its own: it keeps who waits for
    it waiting for ever."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Nobody waits any more."""
        self._has_ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._has_ended.wait(_WATCH_S):
            if self._session.cut_if_stuck(time.monotonic()):
                logger.error("%s: does not answer: the connection is cut", self._session.place)


class DatabaseThread:
    """Works off tasks, one at a time.

    Args:
        session: open, and from now on the thread's.
        on_ended: called in the thread for a task that has ended; it is in `ended` then.
        on_fenced: called in the thread, once, when somebody else has taken over.
        is_exclusive: a connection that cannot be replaced at once counts as that; and nobody is
            answered any more then, because another server may have answered better.
    """

    def __init__(
        self,
        session: Session,
        on_ended: Callable[[], object],
        on_fenced: Callable[[], object],
        *,
        is_exclusive: bool = False,
    ) -> None:
        self._session = session
        self._on_ended = on_ended
        self._on_fenced = on_fenced
        self._is_exclusive = is_exclusive
        self.ended: deque[Task] = deque()
        self.fenced: FencedError | None = None
        self._wake = threading.Condition()
        self._commits: deque[Commit] = deque()
        self._loads: deque[Load] = deque()
        self._cleans: deque[Clean] = deque()
        self._is_ending = False
        # Of the thread alone:
        self._reason = ""  # why there is no connection
        self._retry_s = _RETRY_S_MIN
        self._retry_at_s = 0.0
        self._quiet_until_s = 0.0  # reads and removals failed
        self._clean_at_s = 0.0  # when the next removal may begin
        self._has_told = False
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def put(self, task: Task) -> None:
        """Hands it a task."""
        with self._wake:
            if isinstance(task, Commit):
                self._commits.append(task)
            elif isinstance(task, Load):
                self._loads.append(task)
            else:
                self._cleans.append(task)
            self._wake.notify()

    def end(self) -> None:
        """Returns when the commit that is under way has ended; reads and removals are dropped."""
        with self._wake:
            self._is_ending = True
            self._wake.notify()
        self._thread.join()

    def run_now(self, task: Commit) -> None:
        """In the caller's thread, once the other one has ended."""
        self._commit(task)

    # --- the thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            self._tell_fenced()
            task = self._take()
            if self._is_ending and not isinstance(task, Commit):
                return
            if not self._session.is_open:
                self._reopen(is_urgent=False)
            if task is None:
                self._look()
                continue
            if isinstance(task, Commit):
                self._commit(task)
            elif not self._fetch_or_clean(task):
                continue
            if self._is_exclusive and self.fenced is not None:
                self._tell_fenced()
                return
            self.ended.append(task)
            self._on_ended()

    def _tell_fenced(self) -> None:
        """Behind what has ended: publishers are answered first."""
        if self.fenced is not None and not self._has_told:
            self._has_told = True
            self._on_fenced()

    def _take(self) -> Task | None:
        """The next task; None: it is time to look at the connection, or to end."""
        is_open = self._session.is_open
        with self._wake:
            now_s = time.monotonic()
            until_s = now_s + _PING_S if is_open else max(self._retry_at_s, now_s)
            while True:
                if self._commits:
                    return self._commits.popleft()
                now_s = time.monotonic()
                if self._is_ending or now_s >= until_s:
                    return None
                due_s = min(until_s, now_s + _PING_S)
                if is_open and self._loads:
                    if now_s >= self._quiet_until_s:
                        return self._loads.popleft()
                    due_s = min(due_s, self._quiet_until_s)
                if is_open and self._cleans:
                    clean_at_s = max(self._quiet_until_s, self._clean_at_s)
                    if now_s >= clean_at_s:
                        return self._cleans.popleft()
                    due_s = min(due_s, clean_at_s)
                self._wake.wait(max(due_s - now_s, 0.001))

    def _look(self) -> None:
        """Nothing was to do for a while."""
        if self._session.is_open:
            try:
                self._session.ping()
            except ConnectionLostError as error:
                self._lost(str(error))
            except psycopg.Error as error:
                logger.warning("%s: %s", self._session.place, self._session.reason(error))

    def _lost(self, reason: str) -> None:
        if not self._reason:
            logger.error(
                "%s: the connection is lost: %s; publishers are refused until it is back",
                self._session.place,
                reason,
            )
        self._reason = self._reason or reason
        self._retry_s = _RETRY_S_MIN
        self._retry_at_s = 0.0

    def _reopen(self, *, is_urgent: bool) -> bool:
        """Whether there is a connection again. Unless it is urgent, waits between attempts."""
        if self.fenced is not None:
            return False
        if not is_urgent and time.monotonic() < self._retry_at_s:
            return False
        try:
            self._session.open()
        except FencedError as error:
            self._fence(error)
            return False
        except StoreError as error:
            if not isinstance(error, StoreUnavailableError):
                logger.error("%s", error)
            if self._is_exclusive:
                self._fence(FencedError(f"{self._session.place}: lost store lock, aborting"))
                return False
            self._retry_at_s = time.monotonic() + self._retry_s
            self._retry_s = min(self._retry_s * 2, _RETRY_S_MAX)
            return False
        except ConnectionLostError:
            self._retry_at_s = time.monotonic() + self._retry_s
            return False
        self._retry_s = _RETRY_S_MIN
        logger.info("%s: can be used again", self._session.place)
        self._reason = ""
        return True

    def _fence(self, error: FencedError) -> None:
        self._session.close()
        self._retry_at_s = float("inf")
        self.fenced = error

    def _commit(self, commit: Commit) -> None:
        """Writes it, or says in it why not. What nobody thought of fails the commit, and not the
        thread."""
        place = self._session.place
        if self.fenced is not None:
            commit.error = str(self.fenced)
            return
        if not self._session.is_open:
            commit.error = UNREACHABLE
            return
        try:
            try:
                write(self._session, commit)
            except ConnectionLostError as error:
                # It may be a matter of a moment, as when the database was restarted meanwhile.
                commit.is_doubtful = True
                self._lost(str(error))
                if not self._reopen(is_urgent=True):
                    raise
                commit.undo.update((log, log.last) for log, _, _ in commit.writes)
                write(self._session, commit)
                commit.is_doubtful = False
        except ConnectionLostError as error:
            self._lost(str(error))
            commit.is_doubtful = True
            commit.error = UNREACHABLE
        except FencedError as error:
            commit.error = str(error)
            self._fence(error)
        except psycopg.Error as error:
            commit.is_doubtful = True
            commit.error = self._session.reason(error)
        except Exception as error:
            logger.exception("%s: a commit ended unexpectedly", place)
            commit.is_doubtful = True
            commit.error = str(error) or type(error).__name__

    def _fetch_or_clean(self, task: Load | Clean) -> bool:
        """Whether it has ended; if not, it is queued again."""
        try:
            if isinstance(task, Load):
                load(self._session, task)
            else:
                clean(self._session, task)
                pause_s = 0.0 if task.is_large else _CLEAN_S
                self._clean_at_s = time.monotonic() + pause_s
        except ConnectionLostError as error:
            self._lost(str(error))
        except FencedError as error:
            self._fence(error)
        except psycopg.Error as error:
            reason = self._session.reason(error)
            what = "cannot be read" if isinstance(task, Load) else "cannot be tidied"
            logger.error("%s: %s: %s; trying again", self._session.place, what, reason)
            self._quiet_until_s = time.monotonic() + _LATER_S
        else:
            return True
        with self._wake:
            if isinstance(task, Load):
                self._loads.appendleft(task)
            elif not task.done:
                self._cleans.appendleft(task)
        return isinstance(task, Clean) and bool(task.done)
