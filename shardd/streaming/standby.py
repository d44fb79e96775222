"""A streaming worker whose server belongs to a fault-tolerance group, until it serves.

The lead of a pool contends for the store's lock; while it lives and has it, the pool is active. The
other workers open their parts of the store when it says so, and end with it: a new lead has to take
the lock anew. The lock is tried and the store is read in a thread of its own, so that NATS and the
supervisor are answered meanwhile.
"""

import asyncio
import contextlib
import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

from shardd.config.streaming import StreamingOptions
from shardd.errors import StoreError
from shardd.streaming import pool
from shardd.streaming.bus import Bus
from shardd.streaming.core import State
from shardd.streaming.fault_tolerance import Contender, Tried
from shardd.streaming.receiver import FT, POOL_FT
from shardd.streaming.server import StreamingServer
from shardd.streaming.store import Recovered, Store
from shardd.streaming.stores import recover

log = logging.getLogger("shardd.streaming")

# Where the workers of a pool say to each other whether they are active.
SUBJECT = pool.PREFIX + b"ft"


class Standby:
    """Lives in the event loop of its worker.

    Args:
        options: of the pool.
        server: not started.
        bus: of this worker.
        store: not opened.
        server_id: unique among all servers.
        loop: the event loop.
        finish: has what was published leave.
        fail: called when this worker must end.
        is_connected: whether NATS can be reached.
    """

    def __init__(
        self,
        options: StreamingOptions,
        server: StreamingServer,
        bus: Bus,
        store: Store,
        server_id: str,
        loop: asyncio.AbstractEventLoop,
        finish: Callable[[], object],
        fail: Callable[[BaseException], object],
        is_connected: Callable[[], bool],
    ) -> None:
        self._options = options
        self._core = server.core
        self._bus = bus
        self._store = store
        self._loop = loop
        self._finish = finish
        self._fail = fail
        self._on_recovered: Callable[[Recovered], object] | None = None
        self._on_stopped: Callable[[], object] | None = None
        self._is_busy = False  # a thread is at the store
        self._is_active = False
        self._is_stopped = False
        self._serving: set[int] = set()  # workers of the pool, at the lead
        self._contender: Contender | None = None
        server.on_group = self._take
        if self._core.is_lead:
            self._contender = Contender(
                bus,
                f"_STAN.ft.{options.cluster_id}.{options.ft_group}".encode(),
                server_id,
                later=loop.call_later,
                try_lock=self._try_lock,
                on_active=self._activate,
                on_abort=lambda reason: fail(StoreError(reason)),
                finish=finish,
                clock_ns=time.time_ns,
                chance=random.Random().random,
                is_connected=is_connected,
                is_fenced=store.is_fenced,
            )

    def start(self, on_recovered: Callable[[Recovered], object]) -> None:
        """Stand by; calls back when this worker is to serve what the store holds."""
        self._on_recovered = on_recovered
        if self._core.workers > 1:
            self._bus.subscribe(POOL_FT, SUBJECT)
        if self._contender is not None:
            self._contender.start()
        else:
            self._bus.flush(lambda: self._say(pool.GroupHello(self._core.index)))
        self._finish()

    def serving(self) -> None:
        """This worker serves."""
        if self._contender is None:
            self._say(pool.GroupServing(self._core.index))
            self._finish()
        else:
            self._is_serving(self._core.index)

    def stop(self, on_stopped: Callable[[], object]) -> None:
        """Calls back when nothing is done to the store any more; then it may be closed."""
        self._is_stopped = True
        if self._contender is not None:
            self._contender.stop()
        if self._is_busy:
            self._on_stopped = on_stopped
        else:
            on_stopped()

    # --- the pool --------------------------------------------------------------------------------

    def _take(self, sid: int, payload: bytes) -> None:
        if self._is_stopped:
            return
        if sid == FT and self._contender is not None:
            self._contender.take(payload)
        elif sid == POOL_FT:
            message = pool.decode(payload)
            match message:
                case pool.GroupHello() if self._contender is not None and self._is_active:
                    self._say(pool.GroupActive(self._core.index))
                case pool.GroupServing() if self._contender is not None:
                    self._is_serving(message.worker)
                case pool.GroupActive() if self._contender is None and not self._is_active:
                    self._activate()

    def _say(self, message: pool.Message) -> None:
        self._bus.send(SUBJECT, pool.encode(message))

    def _is_serving(self, worker: int) -> None:
        """The log says once that all of the pool serves: tools wait for it."""
        is_news = len(self._serving) < self._core.workers
        self._serving.add(worker)
        if is_news and len(self._serving) == self._core.workers:
            log.info("STREAM: Streaming Server is ready")

    def _activate(self) -> None:
        self._is_active = True
        self._core.state = State.FT_ACTIVE
        if self._contender is not None and self._core.workers > 1:
            self._say(pool.GroupActive(self._core.index))
            self._finish()
        self._in_thread(lambda: recover(self._store, self._options), self._recovered)

    def _recovered(self, result: Any) -> None:
        if isinstance(result, BaseException):
            self._fail(result)
        elif self._on_recovered is not None:
            self._on_recovered(result)

    # --- the store, in a thread ------------------------------------------------------------------

    def _try_lock(self, on_tried: Tried) -> None:
        def tried(result: Any) -> None:
            if isinstance(result, BaseException) and not isinstance(result, StoreError):
                self._fail(result)
            else:
                on_tried(result)

        self._in_thread(self._store.try_lock, tried)

    def _in_thread(self, work: Callable[[], Any], on_done: Callable[[Any], object]) -> None:
        """Calls back in the event loop with the result or the exception."""

        def run() -> None:
            try:
                result = work()
            except Exception as error:
                result = error
            with contextlib.suppress(RuntimeError):  # the loop has ended: nobody waits any more
                self._loop.call_soon_threadsafe(self._done, on_done, result)

        self._is_busy = True
        threading.Thread(target=run, name="standby", daemon=True).start()

    def _done(self, on_done: Callable[[Any], object], result: Any) -> None:
        self._is_busy = False
        if self._on_stopped is not None:
            self._on_stopped()
        else:
            on_done(result)
