"""A bus, a store and a server put together, with what stands between them where channels are shared
among several servers of one cluster id."""

import asyncio
import os
from collections.abc import Callable
from typing import Final

from shardd.config.streaming import StreamingOptions
from shardd.errors import StoreError
from shardd.identity import new_server_id
from shardd.streaming.engine import Engine
from shardd.streaming.mesh_bus import MeshBus
from shardd.streaming.partition_bus import PartitionBus
from shardd.streaming.partitioning import Partitions
from shardd.streaming.pool import LEAD
from shardd.streaming.server import StreamingServer
from shardd.streaming.store import Recovered, Store
from shardd.streaming.tcp_bus import TcpBus

_SEED_BYTES: Final = 16
# After other servers have come, before they are asked for their channels (sheet 15).
_ASK_AGAIN_S: Final = 0.5


class Served:
    """One server and what drives it. Lives in its event loop.

    Args:
        options: of the pool.
        bus, store: of this worker.
        index: which of the pool's workers this is.
        loop: the event loop.
        finish: ends a pass that began elsewhere.
        fail: called with a StoreError when the server must not go on.
    """

    def __init__(
        self,
        options: StreamingOptions,
        bus: MeshBus | TcpBus,
        store: Store,
        index: int,
        loop: asyncio.AbstractEventLoop,
        finish: Callable[[], object],
        fail: Callable[[BaseException], object],
    ) -> None:
        self._loop = loop
        self._fail = fail
        self._partitions: Partitions | None = None
        self._asking: asyncio.TimerHandle | None = None
        self._is_started = False
        entries = [entry.pattern for entry in options.limits.channels]
        own = PartitionBus(bus, entries, loop.call_later) if options.partitioning else bus
        workers = 1 if options.nats.urls else options.workers
        self.server = StreamingServer(options, store, own, index, workers, os.urandom(_SEED_BYTES))
        self.engine = Engine(loop, own, store, self.server, finish)
        self.server.on_wake = self.engine.wake
        if isinstance(own, PartitionBus):
            receiver = self.server.core.receiver
            own.know(receiver.clients, receiver.connections)
            own.wake = self.engine.wake
            if index == LEAD:
                self._partitions = Partitions(
                    own,
                    options.cluster_id,
                    new_server_id(),
                    entries,
                    loop.call_later,
                    self._on_clash,
                )

    def start(self, recovered: Recovered, on_ready: Callable[[str], object]) -> None:
        """Begin to serve, unless another server has some of the channels."""

        def begin() -> None:
            self._is_started = True
            self.engine.start(recovered, on_ready)

        if self._partitions is None:
            begin()
        else:
            self._partitions.ask(begin)

    def servers_changed(self) -> None:
        """There are other NATS servers than before, and maybe other streaming servers."""
        if self._partitions is not None and self._is_started:
            if self._asking is not None:
                self._asking.cancel()
            self._asking = self._loop.call_later(_ASK_AGAIN_S, self._ask_again)

    def _ask_again(self) -> None:
        self._asking = None
        if self._partitions is not None:
            self._partitions.ask()
            self.engine.wake()

    def _on_clash(self, reason: str) -> None:
        text = f"Partitioning error: {reason}" if self._is_started else reason
        self._fail(StoreError(text))
