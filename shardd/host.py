"""What every process of a host inherits from the supervisor: made once, before the first fork.

Nothing here is alive: no event loop, no thread and no ZeroMQ context exists in the process that
makes a `HostSetup`, so a fork at any time copies a quiet process.
"""

import socket
from dataclasses import dataclass

from shardd.config.core import Config
from shardd.router.ring import Ring
from shardd.slots import Slots


@dataclass(frozen=True, slots=True)
class HostSetup:
    """The host as a worker finds it. Descriptors and mappings are inherited through the fork."""

    config: Config
    server_id: str
    server_name: str
    host: str  # as configured: what INFO says
    port: int  # as bound: never 0 or -1
    worker_count: int
    slots: Slots
    rings: tuple[Ring, ...]  # one per process slot
    doorbell_fds: tuple[int, ...]  # one eventfd per process slot
    # One per worker; a worker closes all but its own, the supervisor keeps all.
    listeners: tuple[socket.socket, ...]
    # One pair per worker: connections that others accepted for it come in at the first end. The
    # supervisor keeps both, so what waits survives the worker.
    handovers: tuple[tuple[socket.socket, socket.socket], ...]
    control_dir: str  # 0700, for the ZeroMQ ipc sockets
    supervisor_fd: int  # an eventfd: write 1 when the own slot's state has changed
    hash_seed: int  # 64 bits, the same in every process of the host
