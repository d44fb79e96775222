"""The router process: boot, run, end.

A member of the mesh without clients of its own: it joins as a worker does, and only then dials and
accepts other servers. If it dies the supervisor starts another one; local traffic goes on.
"""

import asyncio
import contextlib
import logging
import os
import random
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import uvloop

from shardd import log as logs
from shardd.config.core import Config
from shardd.errors import BootError, ExitCode
from shardd.host import HostSetup
from shardd.inquiry import Inquiries, Part
from shardd.orders import LameDuck, Order, Reload
from shardd.outbound import OutboundSet
from shardd.poller import Poller
from shardd.pulse import Pulse, run_loop
from shardd.router.control import Control
from shardd.router.doorbell import Doorbell
from shardd.router.mesh import Mesh
from shardd.router.ring import Producer
from shardd.router.sublist import Sublist
from shardd.routes.cluster import Cluster
from shardd.routes.greeting import Self
from shardd.routes.pump import Pump
from shardd.routes.relay import Relay
from shardd.routes.roster import Dial
from shardd.routes.route import Route
from shardd.routes.statistics import Routez
from shardd.slots import State
from shardd.sockets import error_text, plain_address
from shardd.tls import TlsLayer, client_context, server_context
from shardd.topology import Topology

_DIAL_S_MAX: Final = 1.0  # as nats-server's
# A router that replaces another one does not tell clients that the others have gone before it has
# had the time to find them.
_QUIET_S: Final = 3.0
_ACCEPTS_MAX: Final = 32

log = logging.getLogger("shardd.routes")


class Router:
    """The parts of the router, wired. Lives in the child, in its event loop."""

    def __init__(self, setup: HostSetup, index: int, loop: asyncio.AbstractEventLoop) -> None:
        self._setup = setup
        self._index = index
        self._loop = loop
        self._fault: BaseException | None = None
        self._is_complete = False
        self._is_stopping = False
        self._next_route_id = 1
        self._dialing: set[asyncio.Task[None]] = set()
        self._quiet_until = time.monotonic() + _QUIET_S
        self._untold: Topology | None = None
        self._orders = setup.orders[index].receiver()
        self._taken: list[Order] = []  # orders that wait for their turn
        self._pulse = Pulse(setup.slots, index, loop, self._tick)
        config = setup.config
        assert config.cluster is not None
        seed = int.from_bytes(os.urandom(8), "little")
        slots = setup.slots
        self._doorbells = [Doorbell(slots, i, fd) for i, fd in enumerate(setup.doorbell_fds)]
        self._relay = Relay(
            Sublist(seed=setup.hash_seed, is_relay=True),
            Sublist(seed=setup.hash_seed, is_relay=True),
            Producer(setup.rings[index], slots.incarnation(index)),
            index,
            seed,
            self._learn_accounts,
        )
        self._relay.set_accounts(dict(setup.account_ids))
        self._relay.set_policies(config.queue_policies, setup.account_ids, setup.server_name)
        self._control = Control(setup.control_dir, index, slots.incarnation(index), loop)
        self._outbounds = OutboundSet(int(config.write_deadline_s * 1000))
        self._mesh = Mesh(
            slots,
            setup.rings,
            self._doorbells,
            index,
            self._relay,
            self._control,
            self._outbounds,
        )
        self._poller = Poller()
        self._cluster = Cluster(
            config.cluster,
            introduce(setup),
            self._relay,
            self,
            config.ping_interval_s,
            config.ping_max,
            random.Random(seed),
            config.system_account,
        )
        self._cluster.roster.set_explicit(config.route_urls, 0.0)
        self._pump = Pump(
            self._poller,
            self._outbounds,
            self._relay,
            self._mesh,
            self._doorbells[index],
            self._cluster.on_room,
        )
        self._set_contexts(config)
        self._routez = Routez(
            self._cluster,
            self._relay,
            setup.server_id,
            setup.server_name,
            lambda: setup.slots.counters(index)["slow_consumers"],
        )
        answers = {"routez": self._answer_routez}
        self._inquiries = Inquiries(setup.inquiries[index], loop, answers)

    def _set_contexts(self, config: Config) -> None:
        tls = config.cluster.tls if config.cluster is not None else None
        self._tls = tls
        self._server_context = server_context(tls, must_verify=True) if tls is not None else None
        self._client_context = client_context(tls) if tls is not None else None

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Join the mesh."""
        self._control.start(self._mesh.on_message, self._on_control, lambda _client, _ms: None)
        self._loop.add_reader(self._poller.fd, self._pump.run)
        self._loop.add_reader(self._orders.fileno(), self._on_orders)
        self._loop.add_signal_handler(signal.SIGTERM, self.stop)
        self._loop.add_signal_handler(signal.SIGUSR1, self._reopen_log)
        self._inquiries.start()
        self._mesh.join()
        self._notify_supervisor()
        self._on_control()
        self._pulse.beat()

    def stop(self) -> None:
        """Send what workers have handed in, close every route, end."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._pump.run()
        self._setup.slots.set_state(self._index, State.STOPPING)
        for task in self._dialing:
            task.cancel()
        self._stop_listening()
        self._inquiries.stop()
        self._cluster.stop()
        self._pump.finish()
        self._loop.stop()

    def fail(self, fault: BaseException) -> None:
        """Something that must not happen has happened."""
        self._fault = fault
        self._loop.stop()

    def close(self) -> None:
        """After the loop has ended."""
        self._control.close()
        if self._fault is not None:
            raise self._fault

    def _on_control(self) -> None:
        """Control messages came in: finish the boot if that was the last, and go on."""
        if not self._is_complete and self._mesh.is_complete():
            self._is_complete = True
            if self._setup.cluster_listener is not None:
                self._loop.add_reader(self._setup.cluster_listener.fileno(), self._accept)
            self._notify_supervisor()
        self._pump.finish()

    def _tick(self) -> None:
        self._pump.read_clock()
        if not self._is_complete:
            self._on_control()
        else:
            self._cluster.tick(time.monotonic())
        if self._untold is not None and time.monotonic() >= self._quiet_until:
            self._mesh.make_known(self._untold.fields())
            self._untold = None
        self._pump.finish()

    def _notify_supervisor(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._setup.supervisor_fd, (1).to_bytes(8, "little"))

    def _reopen_log(self) -> None:
        try:
            logs.reopen()
        except BootError as error:
            log.error("%s", error)

    # --- connections ---------------------------------------------------------------------------

    def _accept(self) -> None:
        listener = self._setup.cluster_listener
        assert listener is not None
        for _ in range(_ACCEPTS_MAX):
            try:
                connection, address = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno is not None and not self._is_stopping:
                    log.error("Error accepting a route: %s", error.strerror)
                return
            layer = (
                TlsLayer(self._server_context, self._tls)
                if self._server_context is not None and self._tls is not None
                else None
            )
            route = self._make_route(connection, address, is_dialed=False)
            if layer is not None:
                route.start_layer(layer)
            self._cluster.accepted(route, time.monotonic())
        self._pump.finish()

    def _stop_listening(self) -> None:
        if self._setup.cluster_listener is not None and self._is_complete:
            self._loop.remove_reader(self._setup.cluster_listener.fileno())

    def _make_route(
        self, connection: socket.socket, address: tuple[Any, ...], *, is_dialed: bool
    ) -> Route:
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        route_id = self._next_route_id
        self._next_route_id += 1
        return Route(
            self._cluster,
            self._relay,
            self._poller,
            self._outbounds,
            connection.detach(),
            route_id,
            plain_address(address[0]),
            address[1],
            is_dialed,
            self._setup.config.max_pending,
        )

    async def _connect(self, dial: Dial) -> None:
        """Reach a server, or say why not."""
        connection: socket.socket | None = None
        try:
            async with asyncio.timeout(_DIAL_S_MAX):
                found = await self._loop.getaddrinfo(
                    dial.url.host, dial.url.port, type=socket.SOCK_STREAM
                )
                family, kind, protocol, _, address = random.choice(found)
                connection = socket.socket(family, kind, protocol)
                connection.setblocking(False)
                await self._loop.sock_connect(connection, address)
        except (OSError, TimeoutError) as error:
            if connection is not None:
                connection.close()
            why = error_text(error) if isinstance(error, OSError) and error.errno else "i/o timeout"
            self._cluster.failed(dial, f"dial tcp {dial.url}: {why}", time.monotonic())
            return
        except asyncio.CancelledError:
            if connection is not None:
                connection.close()
            raise
        route = self._make_route(connection, connection.getpeername(), is_dialed=True)
        if self._client_context is not None and self._tls is not None:
            host = dial.certified_name(self._cluster.roster.configured_name)
            route.start_layer(TlsLayer(self._client_context, self._tls, is_server=False, host=host))
        self._cluster.dialed(route, dial, time.monotonic())
        self._pump.finish()

    # --- what the cluster asks for -------------------------------------------------------------

    def dial(self, dial: Dial) -> None:
        """Begins to connect."""
        task = self._loop.create_task(self._connect(dial))
        self._dialing.add(task)
        task.add_done_callback(self._dialing.discard)

    def tell(self, topology: Topology) -> None:
        """Clients are to know this, but not that others have gone while they are looked for."""
        if time.monotonic() < self._quiet_until and not topology.urls:
            self._untold = topology
            return
        self._untold = None
        self._mesh.make_known(topology.fields())

    def later(self, callback: Callable[[], None]) -> None:
        """Calls back when others have had their turn."""

        def call() -> None:
            callback()
            self._pump.finish()

        self._loop.call_soon(call)

    def read_clock(self) -> float:
        """Seconds, from wherever they are counted."""
        return time.monotonic()

    def count_slow_consumer(self) -> None:
        """One more in the host's totals."""
        self._setup.slots.add(self._index, "slow_consumers", 1)

    # --- questions -----------------------------------------------------------------------------

    def _answer_routez(self, question: Part) -> Iterator[Part]:
        has_subscriptions = question.get("subs") is True
        return self._routez.parts(time.monotonic(), time.time_ns(), has_subscriptions)

    # --- orders of the supervisor --------------------------------------------------------------

    def _learn_accounts(self) -> None:
        """A worker speaks of an account that is new with a reload. The supervisor tells the router
        first, so that order is here; the rest of it has its turn later."""
        orders = self._orders.take()
        for order in orders:
            if isinstance(order, Reload):
                self._relay.set_accounts(dict(order.account_ids))
        if orders:
            self._taken += orders
            self._loop.call_soon(self._on_orders)

    def _on_orders(self) -> None:
        orders, self._taken = self._taken + self._orders.take(), []
        for order in orders:
            if isinstance(order, Reload):
                self._reload(order)
            elif isinstance(order, LameDuck):
                self._cluster.start_lame_duck()
                self._orders.answer(order.generation)
        self._pump.finish()

    def _reload(self, order: Reload) -> None:
        config = order.config
        with contextlib.suppress(BootError):
            logs.configure(config, "router")
        assert config.cluster is not None
        self._relay.set_accounts(dict(order.account_ids))
        self._relay.set_policies(config.queue_policies, order.account_ids, self._setup.server_name)
        self._set_contexts(config)
        self._cluster.reload(config.cluster, config.route_urls, time.monotonic())
        self._orders.answer(order.generation)


def introduce(setup: HostSetup) -> Self:
    """This server as its peers are to see it."""
    config = setup.config
    cluster = config.cluster
    assert cluster is not None
    port = setup.cluster_listener.getsockname()[1] if setup.cluster_listener is not None else 0
    return Self(
        server_id=setup.server_id,
        server_name=setup.server_name,
        cluster=setup.cluster_name,
        is_dynamic=not cluster.name,
        host=cluster.host,
        port=port,
        advertise=cluster.advertise,
        max_payload=config.max_payload,
        has_headers=not config.no_header_support,
        needs_auth=bool(cluster.user),
        needs_tls=cluster.tls is not None,
        verifies_tls=cluster.tls is not None,
        connect_urls=setup.connect_urls,
        websocket_urls=setup.websocket_urls,
        permissions=cluster.permissions,
        pool_size=max(cluster.pool_size, 0),
    )


def run(setup: HostSetup, index: int) -> int:
    """Be the router until a signal ends it; returns the exit code.

    Raises:
        Exception: an invariant broke; the caller logs it and ends the process.
    """
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    run_loop(loop, Router(setup, index, loop))
    return ExitCode.CLEAN
