"""One streaming server in an event loop: passes, timers, commits that end in threads, the stop.

What it runs on is handed in: a bus (of the mesh or over TCP), a store and a server. The server is
sans-IO; here is its clock. A pass begins with the clock, hands over what has arrived, and ends with
what follows from it; it is made when something arrives, when the server's next deadline is due, and
when a commit has ended.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final, Protocol

from shardd import limits
from shardd.streaming.store import Recovered, Store


class ServerFace(Protocol):
    """What an engine needs of a server; `server.StreamingServer`, or a test's stand-in."""

    def start(
        self, recovered: Recovered, now_ms: int, now_ns: int, on_ready: Callable[[str], object]
    ) -> None:
        """Takes up what the store held; calls back with "" when clients can come, or with the
        reason why it must not serve."""

    def tick(self, now_ms: int, now_ns: int) -> None:
        """The clock of the pass that begins; does what is due."""

    def end_pass(self) -> None:
        """Everything that was received is dealt with."""

    def next_deadline_ms(self) -> int | None:
        """When the next pass is needed at the latest; None: when something arrives."""

    def stop(self) -> None:
        """Queues what the next start has to know."""


class BusFace(Protocol):
    """The hooks that both kinds of bus have for whoever drives them."""

    begin_pass: Callable[[], object] | None
    end_pass: Callable[[], object] | None
    on_room: Callable[[], object] | None


# How often a stop looks whether all is written.
_STOP_POLL_S: Final = 0.005


class Engine:
    """Drives one server. Lives in the thread of its event loop.

    Args:
        loop: the event loop.
        bus: what the server publishes and subscribes by.
        store: what it keeps things in; it is closed by the stop.
        server: made for this bus and this store.
        finish: ends a pass that began here: `bus.finish`.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        bus: BusFace,
        store: Store,
        server: ServerFace,
        finish: Callable[[], object],
    ) -> None:
        self._loop = loop
        self._bus = bus
        self._store = store
        self._server = server
        self._finish = finish
        self._timer: asyncio.TimerHandle | None = None
        self._deadline_ms = 0
        self._is_started = False
        self._is_woken = False

    def start(self, recovered: Recovered, on_ready: Callable[[str], object]) -> None:
        """Begin to serve with what the store held; `on_ready` as of the server."""
        self._bus.begin_pass = self._begin_pass
        self._bus.end_pass = self._end_pass
        self._bus.on_room = self.wake
        self._is_started = True
        self._server.start(recovered, _now_ms(), time.time_ns(), on_ready)
        self._finish()

    def wake(self) -> None:
        """Make a pass as soon as the event loop comes to it. Called in its thread."""
        if not self._is_woken:
            self._is_woken = True
            self._loop.call_soon(self._run)

    def stop(self, on_stopped: Callable[[], object]) -> None:
        """Let what is under way end, answer, save what is to be saved, and close the store."""
        if not self._is_started:
            self._store.close()
            on_stopped()
            return
        self._run()
        self._server.stop()
        self._run()
        self._wait_for_store(time.monotonic() + limits.DRAIN_S_MAX, on_stopped)

    def _wait_for_store(self, until: float, on_stopped: Callable[[], object]) -> None:
        store = self._store
        if (store.is_committing or store.has_changes) and time.monotonic() < until:
            self._run()
            self._loop.call_later(_STOP_POLL_S, self._wait_for_store, until, on_stopped)
            return
        self._run()
        self._is_started = False
        self._cancel_timer()
        self._bus.begin_pass = self._bus.end_pass = self._bus.on_room = None
        store.close()
        on_stopped()

    # --- passes ----------------------------------------------------------------------------------

    def _run(self) -> None:
        """A pass for which nothing has to arrive."""
        self._is_woken = False
        if self._is_started:
            self._begin_pass()
            self._finish()

    def _begin_pass(self) -> None:
        self._server.tick(_now_ms(), time.time_ns())

    def _end_pass(self) -> None:
        self._server.end_pass()
        deadline_ms = self._server.next_deadline_ms()
        if deadline_ms is None:
            self._cancel_timer()
        elif self._timer is None or deadline_ms != self._deadline_ms:
            self._set_timer(deadline_ms)

    def _set_timer(self, deadline_ms: int) -> None:
        if self._timer is not None:
            # One that goes off too early makes a pass too many; one too late would be a fault.
            if self._deadline_ms <= deadline_ms:
                return
            self._timer.cancel()
        self._deadline_ms = deadline_ms
        delay_s = max(0.0, deadline_ms / 1000 - time.monotonic())
        self._timer = self._loop.call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._run()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
