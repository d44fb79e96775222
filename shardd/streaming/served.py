"""A bus, a store and a server put together, with what stands between them where several servers of
one cluster id share the channels, or the store."""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Final

from shardd.config.streaming import StreamingOptions
from shardd.errors import StoreError
from shardd.streaming.engine import Engine
from shardd.streaming.mesh_bus import MeshBus
from shardd.streaming.partition_bus import PartitionBus
from shardd.streaming.partitioning import Partitions
from shardd.streaming.server import StreamingServer
from shardd.streaming.standby import Standby
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
        server_id: unique among all servers.
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
        server_id: str,
        finish: Callable[[], object],
        fail: Callable[[BaseException], object],
    ) -> None:
        self._loop = loop
        self._finish = finish
        self._fail = fail
        self._partitions: Partitions | None = None
        self._asking: asyncio.TimerHandle | None = None
        self._is_started = False
        self._options = options
        self._server_id = server_id
        self._entries = [entry.pattern for entry in options.limits.channels]
        own: PartitionBus | MeshBus | TcpBus = bus
        if options.partitioning:
            own = PartitionBus(bus, self._entries, loop.call_later)
        self._bus = own
        workers = 1 if options.nats.urls else options.workers
        self.server = StreamingServer(options, store, own, index, workers, os.urandom(_SEED_BYTES))
        self.engine = Engine(loop, own, store, self.server, finish)
        self.server.on_wake = self.engine.wake
        if isinstance(own, PartitionBus):
            receiver = self.server.core.receiver
            own.know(receiver.clients, receiver.connections)
            own.wake = self.engine.wake
        self._standby: Standby | None = None
        if options.ft_group:
            self.server.core.started_ns = time.time_ns()
            self._standby = Standby(
                options,
                self.server,
                own,
                store,
                server_id,
                loop,
                finish,
                fail,
                lambda: not isinstance(bus, TcpBus) or bus.is_connected,
            )

    @property
    def stands_by(self) -> bool:
        """Whether it belongs to a group of which one server is active: it opens its store itself,
        and serves who knows when."""
        return self._standby is not None

    def start(self, recovered: Recovered | None, on_ready: Callable[[str], object]) -> None:
        """Begin to serve what the store held, unless another server has some of the channels; or
        stand by, where `recovered` is not needed."""
        standby = self._standby
        if standby is None:
            assert recovered is not None
            self._begin(recovered, on_ready)
            return

        def ready(error: str) -> None:
            on_ready(error)
            if not error:
                standby.serving()

        standby.start(lambda found: self._begin(found, ready))

    def stop(self, on_stopped: Callable[[], object]) -> None:
        """`Engine.stop`, also while it stands by."""
        if self._standby is None:
            self.engine.stop(on_stopped)
        else:
            self._standby.stop(lambda: self.engine.stop(on_stopped))

    def _begin(self, recovered: Recovered, on_ready: Callable[[str], object]) -> None:
        def begin() -> None:
            self._is_started = True
            self.engine.start(recovered, on_ready)

        if isinstance(self._bus, PartitionBus) and self.server.core.is_lead:
            # Not before: who stands by has the channels of the server that is active.
            self._partitions = Partitions(
                self._bus,
                self._options.cluster_id,
                self._server_id,
                self._entries,
                self._loop.call_later,
                self._on_clash,
            )
            self._partitions.ask(begin)
            self._finish()
        else:
            begin()

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
