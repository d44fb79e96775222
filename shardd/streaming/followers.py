"""What the lead tells the other workers of its pool, and whose word it waits for.

An answer to a client must not come before every worker knows it, or has closed it; a worker that is
gone, or too slow, is not waited for.
"""

from collections.abc import Callable
from dataclasses import astuple

from shardd.streaming import pool
from shardd.streaming.clients import Client
from shardd.streaming.core import Core
from shardd.streaming.schedule import Timer


class _Wait:
    __slots__ = ("on_done", "timer", "workers")

    def __init__(self, workers: set[int], on_done: Callable[[], object]) -> None:
        self.workers = workers
        self.on_done = on_done
        self.timer: Timer | None = None


class Followers:
    """The other workers, seen from the lead. At a follower it only passes on what is done."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._live: set[int] = set()
        self._waits: dict[tuple[str, int], _Wait] = {}
        # A close reaches the others directly: they may be done before the lead has begun.
        self._early: dict[tuple[str, int], set[int]] = {}
        # Who was closed while a worker was away.
        self._missed: dict[int, set[str]] = {}

    # --- at the lead -----------------------------------------------------------------------------

    def welcome(self, worker: int) -> None:
        """A worker said hello: it is told everything, and counted from now on."""
        core = self._core
        self._live.add(worker)
        closed = tuple(sorted(self._missed.pop(worker, set())))
        facts = [
            astuple(pool.facts_of(client.number, client.row, client.is_failing))
            for client in core.clients
        ]
        for start in range(0, max(len(facts), 1), pool.ENTRIES_MAX):
            part = facts[start : start + pool.ENTRIES_MAX]
            is_last = start + pool.ENTRIES_MAX >= len(facts)
            snapshot = pool.Snapshot(
                server=astuple(core.server_row),
                clients=tuple(part),
                closed=closed if start == 0 else (),
                is_first=start == 0,
                is_last=is_last,
            )
            core.bus.send(pool.subject_of(worker), pool.encode(snapshot))

    def lose(self, worker: int) -> None:
        """A worker is gone: nobody waits for it."""
        self._live.discard(worker)
        self._missed.setdefault(worker, set())
        for key in list(self._waits):
            self._mark(key, worker)
        for workers in self._early.values():
            workers.discard(worker)

    def announce(self, client: Client) -> None:
        """There is a new client."""
        facts = pool.facts_of(client.number, client.row, client.is_failing)
        self._broadcast(pool.ClientAdded(astuple(facts)))

    def tell_failing(self, client: Client) -> None:
        """A client stopped answering heartbeats, or began to again."""
        self._broadcast(pool.ClientFailing(client.number, client.row.client_id, client.is_failing))

    def note_ended(self, client: Client, is_told: bool) -> None:
        """A client has ended at the lead; the others know already if it told them itself."""
        for missed in self._missed.values():
            missed.add(client.row.client_id)
        if not is_told:
            self._broadcast(pool.ClientClosed(client.number, client.row.client_id))

    def wait(self, what: str, number: int, on_done: Callable[[], object]) -> None:
        """Calls back, perhaps at once, when every live worker has done it, or after a while."""
        key = what, number
        wait = _Wait(self._live - self._early.pop(key, set()), on_done)
        if not wait.workers:
            on_done()
            return
        self._waits[key] = wait
        limit_ms = pool.CLOSE_WAIT_MS if what == "closed" else pool.WAIT_MS
        wait.timer = self._core.schedule.at(self._core.now_ms + limit_ms, lambda: self._finish(key))

    def heard(self, message: pool.Done) -> None:
        """A worker has done its part."""
        key = message.what, message.number
        if key in self._waits:
            self._mark(key, message.worker)
        elif message.what == "closed" and self._core.clients.has_number(message.number):
            self._early.setdefault(key, set()).add(message.worker)

    def _mark(self, key: tuple[str, int], worker: int) -> None:
        wait = self._waits[key]
        wait.workers.discard(worker)
        if not wait.workers:
            self._finish(key)

    def _finish(self, key: tuple[str, int]) -> None:
        wait = self._waits.pop(key, None)
        if wait is not None:
            if wait.timer is not None:
                wait.timer.cancel()
            wait.on_done()

    def _broadcast(self, message: pool.Message) -> None:
        if self._core.workers > 1:
            self._core.bus.send(pool.ALL, pool.encode(message))

    # --- at a follower ---------------------------------------------------------------------------

    def done(self, what: str, number: int) -> None:
        """Tells the lead."""
        message = pool.Done(self._core.index, number, what)
        self._core.bus.send(pool.subject_of(pool.LEAD), pool.encode(message))
