"""What every process of a host inherits from the supervisor: made once, before the first fork.

Nothing here is alive: no event loop, no thread and no ZeroMQ context exists in the process that
makes a `HostSetup`, so a fork at any time copies a quiet process.
"""

import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from shardd.config.core import Config
from shardd.orders import OrderChannel
from shardd.quotas import Quotas
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
    # Other ways in: WebSocket, one per worker as above; a socket in the file system, one for all.
    websocket_listeners: tuple[socket.socket, ...] = ()
    unix_listener: socket.socket | None = None
    # What the supervisor tells each worker while it runs, one per worker.
    orders: tuple[OrderChannel, ...] = ()
    account_ids: Mapping[str, int] = field(default_factory=dict)  # over all reloads
    quotas: Quotas = field(default_factory=Quotas)


def number_accounts(names: Iterable[str], known: Mapping[str, int]) -> dict[str, int]:
    """A number for every account: those known keep theirs, and no number is given twice in the
    life of a host. The first name of all, the global account, is 0."""
    ids = dict(known)
    for name in names:
        ids.setdefault(name, len(ids))
    return ids
