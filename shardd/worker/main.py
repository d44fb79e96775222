"""One worker process: boot, run, end.

Boot makes the parts from the bottom up, joins the mesh, waits for every peer's interest, and only
then accepts. An exception that nobody handles ends the process: the supervisor starts another one,
and its peers forget what it wanted.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import uvloop

from shardd import errors, limits
from shardd import log as logs
from shardd.auth.identity import Credentials, Identity
from shardd.auth.operator import accounts_of
from shardd.config.core import Config
from shardd.errors import BootError, CloseReason, ExitCode, ProtocolError
from shardd.host import HostSetup
from shardd.inquiry import Inquiries
from shardd.lameduck import DrainPolicy, LameDuckSchedule
from shardd.orders import LameDuck, Reload
from shardd.outbound import OutboundSet
from shardd.poller import Poller
from shardd.pulse import Pulse, run_loop
from shardd.router.control import Control
from shardd.router.dispatch import Dispatcher
from shardd.router.doorbell import Doorbell
from shardd.router.local import LocalClient
from shardd.router.mesh import Mesh
from shardd.router.ring import Producer
from shardd.router.spaces import Spaces
from shardd.router.sublist import Sublist
from shardd.slots import State
from shardd.timers import Deadlines
from shardd.topology import Topology
from shardd.worker.connection import Connection
from shardd.worker.door import Door, client_door, unix_door, websocket_door
from shardd.worker.gate import Gate
from shardd.worker.listener import Entrance
from shardd.worker.observer import Observer
from shardd.worker.pump import Pump
from shardd.worker.shared import Shared

# How long clients of the system account wait to be told that the server ends.
_LAST_WORD_S: Final = 0.5
# What a reload takes of the event loop at a time.
_RECHECK_S: Final = 0.01
# Threads that check credentials yield to those that move messages.
_ASIDE_NICENESS: Final = 10

log = logging.getLogger("shardd.worker")


class LoopFace:
    """What a worker's connections need of its event loop. After each callback, everything that is
    to go out goes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, finish: Callable[[], None]) -> None:
        self._loop = loop
        self._finish = finish
        # One thread: checks of passwords are meant to be expensive, and clients have a core to
        # share with whoever guesses.
        self._aside = ThreadPoolExecutor(1, "credentials", _be_nice)

    def clock(self) -> float:
        """Unix seconds."""
        return time.time()

    def soon(self, callback: Callable[[], None]) -> None:
        """Call in the next turn."""
        self._loop.call_soon(self._run, callback)

    def aside(
        self,
        gate: Gate,
        credentials: Credentials,
        callback: Callable[[Identity | None, ProtocolError | None], None],
        is_wanted: Callable[[], bool],
    ) -> None:
        """Check credentials in a thread, then call with who it is, or why not; with neither, if
        nobody wanted to know any more when their turn came."""

        def check() -> Identity | None:
            return gate.identify(credentials) if is_wanted() else None

        def done(future: Future[Identity | None]) -> None:
            self._loop.call_soon_threadsafe(self._answer, future, callback)

        self._aside.submit(check).add_done_callback(done)

    def close(self) -> None:
        """Wait for no check any more."""
        self._aside.shutdown(wait=False, cancel_futures=True)

    def _answer(
        self,
        future: Future[Identity | None],
        callback: Callable[[Identity | None, ProtocolError | None], None],
    ) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            callback(future.result(), None)
        elif isinstance(error, ProtocolError):
            callback(None, error)
        else:
            raise error
        self._finish()

    def _run(self, callback: Callable[[], None]) -> None:
        callback()
        self._finish()


# A prefix of subjects, and what a message to one of them needs: `Shared.set_guard`.
Guard = tuple[bytes, Callable[[bytes, bytes], bytes | None]]


def _ignore(*_: bytes) -> None:
    """Nothing is subscribed to."""


def _be_nice() -> None:
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, _ASIDE_NICENESS)  # of this thread alone (Linux)


class Worker:
    """The parts of one worker, wired. Lives in the child, in its event loop."""

    def __init__(
        self,
        setup: HostSetup,
        index: int,
        loop: asyncio.AbstractEventLoop,
        guard: Guard | None = None,
    ) -> None:
        self._setup = setup
        self._index = index
        self._loop = loop
        self._fault: BaseException | None = None
        self._is_accepting = False
        self._drain_policy: DrainPolicy | None = None
        self._lame_duck: LameDuckSchedule | None = None
        self._doors: list[Door] = []
        self._system_account = setup.account_ids.get(setup.config.system_account)
        self._word_until = 0.0
        self._topology = Topology(setup.cluster_name if setup.routers else "")
        self._orders = setup.orders[index].receiver()
        self._pulse = Pulse(setup.slots, index, loop, self._tick)
        slots = setup.slots
        config = setup.config
        seed = int.from_bytes(os.urandom(8), "little")
        self._doorbells = [Doorbell(slots, i, fd) for i, fd in enumerate(setup.doorbell_fds)]
        self._sublist = Sublist(seed=setup.hash_seed)
        producer = Producer(setup.rings[index], slots.incarnation(index))
        self._dispatcher = Dispatcher(self._sublist, producer, index, seed, setup.routers)
        self._choose_by(config, setup.account_ids)
        self._control = Control(setup.control_dir, index, slots.incarnation(index), loop)
        outbounds = OutboundSet(int(config.write_deadline_s * 1000))
        self._mesh = Mesh(
            slots,
            setup.rings,
            self._doorbells,
            index,
            self._dispatcher,
            self._control,
            outbounds,
        )
        self._poller = Poller()
        self._deadlines = Deadlines()
        self._face = LoopFace(loop, self._finish)
        self._shared = Shared(
            config,
            self._face,
            setup.quotas,
            self._poller,
            outbounds,
            self._dispatcher,
            self._mesh,
            self._deadlines,
            seed,
        )
        if guard is not None:
            self._shared.set_guard(*guard)
        self._spaces = self._make_spaces(config)
        self._shared.set_gate(self._make_gate(config, setup.account_ids))
        self._inquiries = self._observe(config)
        self._pump = Pump(self._shared, self._doorbells[index], loop.call_later)
        self._entrance = Entrance(
            self._shared,
            self._listening(),
            self._make_doors(config),
            setup.handovers,
            setup.worker_count,
            loop.call_later,
        )

    def _make_spaces(self, config: Config) -> Spaces:
        """The accounts that have more than plain subjects."""
        # Replies of this process's requests to imported services: no other process's, also not
        # those of the one that this one replaces.
        prefix = b"%x_%x" % (self._index, int.from_bytes(os.urandom(6), "little"))
        spaces = Spaces(
            self._dispatcher, self._shared.random, prefix, self._describe, os.urandom(32)
        )
        spaces.apply(accounts_of(config), self._setup.account_ids)
        return spaces

    def _choose_by(self, config: Config, account_ids: Mapping[str, int]) -> None:
        """How members of queue groups are chosen."""
        self._dispatcher.set_policies(config.queue_policies, account_ids, self._setup.server_name)

    def _observe(self, config: Config) -> Inquiries | None:
        """Remember who left where the server is watched, say who comes and goes, and answer."""
        setup, shared = self._setup, self._shared
        is_watched = setup.monitor_index is not None
        shared.observer = observer = Observer(
            shared.connections,
            self._sublist,
            LocalClient(self._dispatcher, _ignore),
            setup.envelope(),
            setup.account_ids.get(config.system_account),
            -(-config.max_closed_clients // setup.worker_count) if is_watched else 0,
            time.time_ns,
            time.time_ns() - 1_000_000 * int(time.monotonic() * 1000),
        )
        if not is_watched:
            return None
        answers = {
            "connz": observer.answer_connz,
            "subsz": observer.answer_subsz,
            "accounts": observer.answer_accounts,
            "kick": observer.answer_kick,
        }
        return Inquiries(setup.inquiries[self._index], self._loop, answers)

    def _make_gate(self, config: Config, account_ids: Mapping[str, int]) -> Gate:
        return Gate(
            config, account_ids, self._spaces, self._setup.quotas, self._index, self._face.clock
        )

    def _listening(self) -> list[socket.socket]:
        """This worker's listening sockets, in the order of its doors."""
        setup = self._setup
        sockets = [setup.listeners[self._index]]
        if setup.websocket_listeners:
            sockets.append(setup.websocket_listeners[self._index])
        if setup.unix_listener is not None:
            sockets.append(setup.unix_listener)
        return sockets

    def _make_doors(self, config: Config) -> list[Door]:
        """What clients come in by, in the order of the listening sockets."""
        setup = self._setup
        names = (setup.server_id, setup.server_name, setup.host, setup.port)
        self._doors = doors = [client_door(config, *names)]
        if setup.websocket_listeners:
            doors.append(websocket_door(config, *names))
        if setup.unix_listener is not None:
            doors.append(unix_door(config, *names))
        for door in doors:
            door.show(self._topology)
        return doors

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Join the mesh. `Server is ready` is the supervisor's to say, when all have."""
        self._control.start(
            self._mesh.on_message, self._on_control, self._on_stall, self._on_topology
        )
        self._loop.add_reader(self._poller.fd, self._pump.run)
        self._loop.add_reader(self._orders.fileno(), self._on_orders)
        self._loop.add_signal_handler(signal.SIGTERM, self.stop)
        self._loop.add_signal_handler(signal.SIGUSR1, self._reopen_log)
        if self._inquiries is not None:
            self._inquiries.start()
        self._mesh.join()
        self._notify_supervisor()
        self._on_control()
        self._pulse.beat()

    def stop(self) -> None:
        """Accept and read no more, say what is queued within a bound, close every client."""
        if self._drain_policy is not None:
            return
        self._entrance.stop()
        if self._inquiries is not None:
            self._inquiries.stop()
        # What was read before the signal, and what peers have sent, is still delivered.
        self._pump.run()
        self._shared.slots.set_state(self._index, State.STOPPING)
        for connection in self._connections():
            connection.drain()
        self._finish()
        self._word_until = time.monotonic() + _LAST_WORD_S
        self._drain_policy = DrainPolicy(
            self._queued(), time.monotonic(), limits.DRAIN_IDLE_S_MAX, limits.DRAIN_S_MAX
        )
        self._drain()

    def _drain(self) -> None:
        """Close who has read all it is to get; end when none is left or time is up."""
        assert self._drain_policy is not None
        now = time.monotonic()
        listeners = self._system_account if self._is_word_due(now) else None
        if listeners is None:
            self._pump.run()
        is_over = self._drain_policy.is_over(self._queued(), now)
        for connection in self._connections():
            if connection.account == listeners and connection.admission is not None:
                continue
            if is_over or not connection.has_output:
                connection.close(CloseReason.SERVER_SHUTDOWN)
        if not self._shared.connections:
            self._finish()
            self._loop.stop()

    def _is_word_due(self, now: float) -> bool:
        """Whether the monitor has yet to tell the system account that the server ends."""
        monitor = self._setup.monitor_index
        if self._system_account is None or monitor is None or now >= self._word_until:
            return False
        return self._shared.slots.state(monitor) is State.READY

    def _queued(self) -> int:
        """Bytes that wait for clients."""
        return sum(connection.pending_bytes for connection in self._connections())

    def fail(self, fault: BaseException) -> None:
        """Something that must not happen has happened."""
        self._fault = fault
        self._loop.stop()

    def close(self) -> None:
        """After the loop has ended."""
        self._face.close()
        self._control.close()
        if self._fault is not None:
            raise self._fault

    def _describe(self, client_id: int, is_shared: bool) -> dict[str, object]:
        """What the exporter of a service is told of a client that asks."""
        connection = self._shared.connections.get(client_id)
        return connection.describe(is_shared, self._setup.server_id) if connection else {}

    def _connections(self) -> list[Connection]:
        return list(self._shared.connections.values())

    def _finish(self) -> None:
        self._pump.finish()

    def _on_control(self) -> None:
        """Control messages came in: finish the boot if that was the last, and go on."""
        if not self._is_accepting and self._mesh.is_complete() and self._may_accept():
            self._is_accepting = True
            self._entrance.start()
            self._notify_supervisor()
        self._finish()

    def _may_accept(self) -> bool:
        """A host takes its first client when its streaming workers are there. A worker that
        replaces another one waits for nobody: clients are without it already."""
        slots = self._shared.slots
        return slots.incarnation(self._index) > 1 or all(
            slots.state(index) == State.READY for index in self._setup.streaming_slots
        )

    def _on_stall(self, client_id: int, milliseconds: int) -> None:
        connection = self._shared.connections.get(client_id)
        if connection is not None:
            connection.stall(milliseconds)

    def _on_topology(self, topology: tuple[Any, ...]) -> None:
        """The router tells of the cluster: new clients learn it, and those that listen."""
        self._topology = Topology.of(topology)
        for door in self._doors:
            door.show(self._topology)
        for connection in self._connections():
            connection.door.show(self._topology)
            connection.tell_info()

    def _tick(self) -> None:
        self._shared.tick()
        self._spaces.tick(int(time.monotonic() * 1000))
        if not self._is_accepting:
            self._on_control()
        if self._lame_duck is not None:
            self._leave_one()
        self._finish()
        if self._drain_policy is not None:
            self._drain()

    # --- orders of the supervisor --------------------------------------------------------------

    def _on_orders(self) -> None:
        for order in self._orders.take():
            if isinstance(order, Reload):
                self._reload(order)
            elif isinstance(order, LameDuck):
                self._start_lame_duck(order)
            else:
                self._shed(order.count)
        self._finish()

    def _reload(self, order: Reload) -> None:
        """Serve by another configuration from here on. Everything in it was checked before the
        order was given; what fails here is ours, and ends this process."""
        config = order.config
        with contextlib.suppress(BootError):  # the log of before is as good
            logs.configure(config, f"worker {self._index}")
        previous = self._shared.gate
        self._shared.apply(config)
        self._choose_by(config, order.account_ids)
        self._spaces.apply(accounts_of(config), order.account_ids)
        self._shared.set_gate(self._make_gate(config, order.account_ids))
        self._entrance.change_doors(self._make_doors(config))
        self._recheck(self._connections(), previous, order.generation)

    def _recheck(self, left: list[Connection], previous: Gate, generation: int) -> None:
        """Ask again who may stay, a few at a time: messages go on meanwhile."""
        until = time.monotonic() + _RECHECK_S
        while left and time.monotonic() < until:
            left.pop().recheck(previous)
        self._finish()
        if left:
            self._loop.call_soon(self._recheck, left, previous, generation)
        else:
            self._orders.answer(generation)

    def _shed(self, count: int) -> None:
        """Close so many clients, at random (sheet 3.1)."""
        mine = self._connections()
        for connection in self._shared.random.sample(mine, min(count, len(mine))):
            connection.close(CloseReason.MAXIMUM_CONNECTIONS_EXCEEDED, errors.ERR_MAX_CONNECTIONS)

    def _start_lame_duck(self, order: LameDuck) -> None:
        """Accept no more, tell who listens, and let everybody go one by one (sheet 6)."""
        if self._lame_duck is not None:
            return
        self._entrance.stop()
        connections = self._connections()
        for connection in connections:
            connection.tell_lame_duck()
        config = self._setup.config
        self._lame_duck = LameDuckSchedule(
            len(connections),
            config.lame_duck_grace_s,
            config.lame_duck_duration_s,
            time.monotonic(),
            self._shared.random,
            self._shared.slots.totals()["connections"],
        )
        self._orders.answer(order.generation)

    def _leave_one(self) -> None:
        """Close as many clients as are due by now."""
        assert self._lame_duck is not None
        for _ in range(self._lame_duck.due(time.monotonic())):
            connection = next(iter(self._shared.connections.values()), None)
            if connection is None:
                return
            connection.close(CloseReason.SERVER_SHUTDOWN)

    def _reopen_log(self) -> None:
        try:
            logs.reopen()
        except BootError as error:
            log.error("%s", error)

    def _notify_supervisor(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._setup.supervisor_fd, (1).to_bytes(8, "little"))


def run(setup: HostSetup, index: int, guard: Guard | None = None) -> int:
    """Be worker `index` until a signal ends it; returns the exit code.

    Args:
        guard: what it takes to publish to some subjects beside the right to publish there.

    Raises:
        Exception: an invariant broke; the caller logs it and ends the process.
    """
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    run_loop(loop, Worker(setup, index, loop, guard))
    return ExitCode.CLEAN
