"""What every process of a host inherits from the supervisor: made once, before the first fork.

Nothing here is alive: no event loop, no thread and no ZeroMQ context exists in the process that
makes a `HostSetup`, so a fork at any time copies a quiet process.
"""

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from shardd.config.core import Config
from shardd.config.streaming import StreamingOptions
from shardd.identity import new_server_id
from shardd.inquiry import open_inquiries, socket_name
from shardd.orders import OrderChannel
from shardd.process import raise_file_limit
from shardd.quotas import Quotas
from shardd.reports.events import Envelope
from shardd.router.ring import Ring
from shardd.runfiles import RuntimeDirectory, write_pid_file
from shardd.slots import Slots
from shardd.sockets import (
    join_address,
    listener_urls,
    open_handovers,
    open_listeners,
    open_unix_listener,
    remove_unix_socket,
)
from shardd.surroundings import complaints, look
from shardd.version import NATS_VERSION, SHARDD_VERSION

_log = logging.getLogger("shardd.supervisor")


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
    # The router, if there is a cluster: its slot behind those of the workers, where it listens for
    # other servers, and the name that the cluster has until another server knows better.
    router_index: int | None = None
    cluster_listener: socket.socket | None = None
    cluster_port: int = 0  # of that listener, 0: none; every process may want to know it
    cluster_name: str = ""
    # The streaming workers: the first one's slot, and how many there are.
    streaming_first: int = 0
    streaming_count: int = 0
    # The monitor, if the server is watched: its slot, the last one, and where it is asked.
    monitor_index: int | None = None
    http_listener: socket.socket | None = None
    start_ns: int = 0  # when the server began, nanoseconds since 1970
    # Where the monitor and the server's own user put questions, one for each process.
    inquiries: tuple[socket.socket, ...] = ()
    # Where clients reach this host from elsewhere, for other servers to pass on.
    connect_urls: tuple[str, ...] = ()
    websocket_urls: tuple[str, ...] = ()

    @property
    def routers(self) -> int:
        """The mask of the processes that lead to other hosts."""
        return 0 if self.router_index is None else 1 << self.router_index

    @property
    def streaming_slots(self) -> range:
        """The slots of the streaming workers."""
        return range(self.streaming_first, self.streaming_first + self.streaming_count)

    def name_of(self, index: int) -> str:
        """What the process of a slot is called in the log."""
        if index in self.streaming_slots:
            return f"Streaming {index - self.streaming_first}"
        if index == self.monitor_index:
            return "Monitor"
        return "Router" if index == self.router_index else f"Worker {index}"

    @property
    def http_port(self) -> int:
        """Where monitoring listens; 0: nowhere."""
        return 0 if self.http_listener is None else int(self.http_listener.getsockname()[1])

    def envelope(self) -> Envelope:
        """Who this server is, on what one process says of it."""
        return Envelope(self.server_id, self.server_name, self.host, self.cluster_name)

    def inquiry_paths(self) -> dict[int, Path]:
        """Where each process is asked, by slot."""
        directory = Path(self.control_dir)
        return {
            index: directory / socket_name(self.name_of(index))
            for index in range(len(self.inquiries))
        }


def number_accounts(names: Iterable[str], known: Mapping[str, int]) -> dict[str, int]:
    """A number for every account: those known keep theirs, and no number is given twice in the
    life of a host. The first name of all, the global account, is 0."""
    ids = dict(known)
    for name in names:
        ids.setdefault(name, len(ids))
    return ids


def prepare(config: Config, stack: ExitStack) -> tuple[HostSetup, Callable[[int], None]]:
    """Makes everything that outlives a worker, and what closes a child's copy of it.

    `stack` undoes it all at the end. Raises BootError for what the operator has to change.
    """
    server_id = new_server_id()
    server_name = config.server_name or server_id
    worker_count = config.worker_count
    _say_starting(config, server_id, server_name)
    raise_file_limit()
    for line in complaints(config, look()):
        _log.warning("%s", line)
    listeners = open_listeners(config.host, config.port, worker_count)
    for listener in listeners:
        stack.callback(listener.close)
    websockets = _open_websockets(config, worker_count, stack)
    unix = _open_unix(config, stack)
    cluster_name = config.cluster.name or secrets.token_hex(11) if config.cluster else ""
    cluster_listener = _open_cluster(config, cluster_name, stack)
    http_listener = _open_http(config, stack)
    process_count = config.process_count
    port: int = listeners[0].getsockname()[1]
    if config.pid_file:
        write_pid_file(config.pid_file)
    handovers = open_handovers(worker_count)
    for inlet, outlet in handovers:
        stack.callback(inlet.close)
        stack.callback(outlet.close)
    runtime = RuntimeDirectory.create()
    stack.callback(runtime.close)
    _say_listening(config, port)
    setup = HostSetup(
        config=config,
        server_id=server_id,
        server_name=server_name,
        host=config.host,
        port=port,
        worker_count=worker_count,
        slots=Slots(process_count),
        rings=tuple(Ring(config.ring_bytes, process_count) for _ in range(process_count)),
        doorbell_fds=tuple(_eventfd(stack) for _ in range(process_count)),
        listeners=listeners,
        handovers=handovers,
        control_dir=str(runtime.path),
        supervisor_fd=_eventfd(stack),
        hash_seed=int.from_bytes(os.urandom(8), "little"),
        websocket_listeners=websockets,
        unix_listener=unix,
        orders=_open_orders(process_count, stack),
        account_ids=number_accounts(config.account_names, {}),
        router_index=worker_count if config.cluster is not None else None,
        cluster_listener=cluster_listener,
        cluster_port=0 if cluster_listener is None else cluster_listener.getsockname()[1],
        cluster_name=cluster_name,
        streaming_first=worker_count + (config.cluster is not None),
        streaming_count=config.streaming.workers if config.streaming is not None else 0,
        monitor_index=process_count - 1 if config.has_monitoring else None,
        http_listener=http_listener,
        start_ns=time.time_ns(),
        connect_urls=_connect_urls(config, listeners[0]),
        websocket_urls=_websocket_urls(config, websockets),
    )
    setup = replace(setup, inquiries=_open_inquiries(setup, runtime.path, stack))

    def release(index: int) -> None:
        runtime.leave_in_child()
        _release(setup, index)

    return setup, release


def _release(setup: HostSetup, index: int) -> None:
    """In a child: lets go of what is the supervisor's and the other processes'."""
    for number, channel in enumerate(setup.orders):
        channel.leave_in_child(number == index)
    for number, inquiries in enumerate(setup.inquiries):
        if number != index:
            inquiries.close()
    if index != setup.router_index and setup.cluster_listener is not None:
        setup.cluster_listener.close()
    if index != setup.monitor_index and setup.http_listener is not None:
        setup.http_listener.close()
    for number in range(setup.worker_count):
        if number != index:
            setup.listeners[number].close()
            setup.handovers[number][0].close()
            if setup.websocket_listeners:
                setup.websocket_listeners[number].close()


def _say_starting(config: Config, server_id: str, server_name: str) -> None:
    _log.info("Starting shardd")
    _log.info("  Version:  %s", NATS_VERSION)
    _log.info("  Shardd:   %s", SHARDD_VERSION)
    _log.info("  Name:     %s", server_name)
    _log.info("  ID:       %s", server_id)
    _log.info("  Workers:  %d", config.worker_count)
    if config.streaming is not None:
        say_streaming(config.streaming)
    if config.config_file is not None:
        _log.info("Using configuration file: %s (%s)", config.config_file, config.config_digest)
    for warning in config.warnings:
        _log.warning("%s", warning)


def say_streaming(streaming: StreamingOptions) -> None:
    """What there is to know of the streaming pool at start, as the original says it."""
    _log.info('STREAM: Starting shardd streaming with cluster ID "%s"', streaming.cluster_id)
    _log.info("STREAM: Streaming workers: %d", streaming.workers)
    if streaming.store == "MEMORY":
        _log.warning("STREAM: Store is MEMORY, messages are lost when the server ends")
    else:
        _log.info("STREAM: Store is %s", streaming.store)
    if streaming.encrypt:
        _log.info("STREAM: Messages are stored encrypted")


def _say_listening(config: Config, port: int) -> None:
    _log.info("Listening for client connections on %s", join_address(config.host, port))
    if config.tls is not None:
        words = "available" if config.allow_non_tls else "required"
        _log.info("TLS %s for client connections", words)
    if config.unix is not None:
        _log.info("Listening for client connections on %s", config.unix.path)


def _open_websockets(config: Config, count: int, stack: ExitStack) -> tuple[socket.socket, ...]:
    """The listening sockets for WebSocket, if it is configured."""
    websocket = config.websocket
    if websocket is None:
        return ()
    listeners = open_listeners(websocket.host, websocket.port, count)
    for listener in listeners:
        stack.callback(listener.close)
    scheme = "ws" if websocket.tls is None else "wss"
    address = join_address(websocket.host, listeners[0].getsockname()[1])
    _log.info("Listening for websocket clients on %s://%s", scheme, address)
    if websocket.tls is None:
        _log.warning("Websocket not configured with TLS. DO NOT USE IN PRODUCTION!")
    return listeners


def _open_cluster(config: Config, name: str, stack: ExitStack) -> socket.socket | None:
    """The listening socket for routes, if other servers may dial this one."""
    cluster = config.cluster
    if cluster is None:
        return None
    _log.info("Cluster name is %s", name)
    if not cluster.port:
        return None
    (listener,) = open_listeners(cluster.host, cluster.port, 1)
    stack.callback(listener.close)
    address = join_address(cluster.host, listener.getsockname()[1])
    _log.info("Listening for route connections on %s", address)
    return listener


def _open_orders(count: int, stack: ExitStack) -> tuple[OrderChannel, ...]:
    """The supervisor's way to tell each process something."""
    orders = tuple(OrderChannel() for _ in range(count))
    for channel in orders:
        stack.callback(channel.close)
    return orders


def _open_http(config: Config, stack: ExitStack) -> socket.socket | None:
    """The listening socket of monitoring, if it is configured."""
    if not (config.http_port or config.https_port):
        return None
    host = config.http_host or config.host
    (listener,) = open_listeners(host, config.http_port or config.https_port, 1)
    stack.callback(listener.close)
    scheme = "http" if config.http_port else "https"
    address = join_address(host, listener.getsockname()[1])
    _log.info("Starting %s monitor on %s", scheme, address)
    return listener


def _open_inquiries(
    setup: HostSetup, directory: Path, stack: ExitStack
) -> tuple[socket.socket, ...]:
    """A socket for each process; opened where anybody asks."""
    if setup.slots.count == setup.worker_count:
        return ()  # workers are asked by the monitor only
    sockets = []
    for index in range(setup.slots.count):
        sockets.append(open_inquiries(directory, setup.name_of(index)))
        stack.callback(sockets[-1].close)
    return tuple(sockets)


def _connect_urls(config: Config, listener: socket.socket) -> tuple[str, ...]:
    if config.cluster is None or config.cluster.no_advertise:
        return ()
    if config.client_advertise is not None:
        port: int = listener.getsockname()[1]
        return (join_address(*config.advertised(config.host, port)),)
    return _elsewhere(listener)


def _websocket_urls(config: Config, listeners: tuple[socket.socket, ...]) -> tuple[str, ...]:
    if config.cluster is None or config.cluster.no_advertise or config.websocket is None:
        return ()
    if config.websocket.advertise:
        return (config.websocket.advertise,)
    return _elsewhere(listeners[0])


def _elsewhere(listener: socket.socket) -> tuple[str, ...]:
    """Where a listener is reached from elsewhere; on loopback only if it is nowhere else."""
    urls = [url.partition("://")[2] for url in listener_urls(listener)]
    local = ("127.", "[::1]", "[fe80")
    return tuple([url for url in urls if not url.startswith(local)] or urls)


def _open_unix(config: Config, stack: ExitStack) -> socket.socket | None:
    """The listening socket in the file system, if it is configured."""
    if config.unix is None:
        return None
    path = config.unix.path
    listener = open_unix_listener(path, config.unix.mode)
    stack.callback(listener.close)
    stack.callback(remove_unix_socket, path, os.stat(path).st_ino)
    return listener


def _eventfd(stack: ExitStack) -> int:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    stack.callback(os.close, fd)
    return fd
