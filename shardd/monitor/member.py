"""The monitor as a member of the mesh: passes as a worker's, in plain Python.

It has few messages of its own, and what others publish concerns it only where it subscribes, so a
pass costs next to nothing.
"""

import asyncio
import os
import time
from collections.abc import Callable, Mapping

from shardd.config.core import Config
from shardd.host import HostSetup
from shardd.router.control import Control
from shardd.router.dispatch import Dispatcher
from shardd.router.doorbell import Doorbell
from shardd.router.local import LocalClient
from shardd.router.mesh import Mesh
from shardd.router.ring import Producer
from shardd.router.sublist import Sublist
from shardd.topology import Topology

Deliver = Callable[[bytes, bytes, bytes, bytes, bytes], object]


class Member:
    """One process of the host. Touched by its event loop only.

    Args:
        setup: the host.
        index: the own slot.
        loop: the event loop.
        deliver: gets sid, subject, reply, header block and payload of what is subscribed to.
        on_complete: called once, when it knows what every other process wants.
        on_topology: gets what the router tells of the cluster.
    """

    def __init__(
        self,
        setup: HostSetup,
        index: int,
        loop: asyncio.AbstractEventLoop,
        deliver: Deliver,
        on_complete: Callable[[], None],
        on_topology: Callable[[Topology], None],
    ) -> None:
        slots = setup.slots
        self._loop = loop
        self._host = setup.server_name
        self._on_complete = on_complete
        self._on_topology = on_topology
        self._is_complete = False
        doorbells = [Doorbell(slots, i, fd) for i, fd in enumerate(setup.doorbell_fds)]
        self._doorbell = doorbells[index]
        self._dispatcher = Dispatcher(
            Sublist(seed=setup.hash_seed),
            Producer(setup.rings[index], slots.incarnation(index)),
            index,
            int.from_bytes(os.urandom(8), "little"),
            setup.routers,
        )
        self.choose_by(setup.config, setup.account_ids)
        self._control = Control(setup.control_dir, index, slots.incarnation(index), loop)
        self._mesh = Mesh(slots, setup.rings, doorbells, index, self._dispatcher, self._control)
        self.client = LocalClient(self._dispatcher, deliver)

    def choose_by(self, config: Config, account_ids: Mapping[str, int]) -> None:
        """How members of queue groups are chosen from now on."""
        self._dispatcher.set_policies(config.queue_policies, account_ids, self._host)

    def start(self) -> None:
        """Join the others."""
        self._read_clock()
        self._control.start(
            self._mesh.on_message,
            self.finish,
            lambda _client, _ms: None,
            lambda fields: self._on_topology(Topology.of(fields)),
        )
        self._loop.add_reader(self._doorbell.fd, self._run)
        self._mesh.join()

    def close(self) -> None:
        """After the loop has ended."""
        self.client.close()
        self._control.close()

    def finish(self) -> None:
        """End of a pass, of a timer or of a control message: what is to go out, goes."""
        if not self._is_complete and self._mesh.is_complete():
            self._is_complete = True
            self._on_complete()
        self._dispatcher.finish()
        self._doorbell.fall_asleep()
        if self._mesh.has_unread():
            self._doorbell.ring_always()

    def tick(self) -> None:
        """From time to time: the clock goes on."""
        self._read_clock()
        self.finish()

    def _run(self) -> None:
        self._doorbell.clear()
        self._doorbell.wake_up()
        self._read_clock()
        self._mesh.read_rings()
        self.finish()

    def _read_clock(self) -> None:
        self._mesh.now_ms = int(time.monotonic() * 1000)
