"""One streaming worker process of a host: boot, run, end.

It opens its parts of the store and reads them before it joins the mesh, so that no ring waits for
it meanwhile; only a server that stands by for another one joins without. Once it knows every
process of the host its server begins; when that can serve, the process counts as ready, and with
the last of them the host takes its first client. An exception that nobody handles ends the process:
the supervisor starts another one, which reads the store again.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from typing import Any, Final

import uvloop

from shardd import log as logs
from shardd.errors import BootError, ExitCode, StoreError, StoreUnavailableError
from shardd.host import HostSetup
from shardd.inquiry import Inquiries
from shardd.orders import LameDuck, Reload
from shardd.pulse import run_loop
from shardd.router.control import Control
from shardd.router.dispatch import Dispatcher
from shardd.router.doorbell import Doorbell
from shardd.router.mesh import Mesh
from shardd.router.ring import Producer
from shardd.router.sublist import Sublist
from shardd.slots import State
from shardd.streaming import pool
from shardd.streaming.mesh_bus import MeshBus
from shardd.streaming.questions import answers
from shardd.streaming.served import Served
from shardd.streaming.store import Recovered, Store
from shardd.streaming.stores import open_store, recover
from shardd.topology import Topology

_TICK_S: Final = 0.05
# How long other hosts are waited for at a start, and how long their interest after their names.
_ROUTES_S: Final = 1.0
_ROUTE_INTEREST_S: Final = 0.1

log = logging.getLogger("shardd.streaming")


class StreamingWorker:
    """The parts of one streaming worker, wired. Lives in the child, in its event loop."""

    def __init__(
        self,
        setup: HostSetup,
        slot: int,
        loop: asyncio.AbstractEventLoop,
        store: Store,
        recovered: Recovered | None,
    ) -> None:
        assert setup.config.streaming is not None
        options = setup.config.streaming
        self._setup = setup
        self._slot = slot
        self._loop = loop
        self._fault: BaseException | None = None
        self.exit_code = ExitCode.CLEAN
        self._recovered = recovered
        self._is_begun = False
        self._is_present = False  # serving, or standing by
        self._is_ready = False
        self._is_stopping = False
        # A lead that is the first one asks whether it is alone, also on hosts that are dialed now.
        dials = slot == setup.streaming_first and setup.slots.incarnation(slot) == 1
        wait_s = _ROUTES_S if dials and setup.config.route_urls else 0.0
        self._routes_until = time.monotonic() + wait_s
        self._epoch = 0
        self._others: dict[int, int] = {}  # incarnations of the pool's other workers, by slot
        self._orders = setup.orders[slot].receiver()
        slots = setup.slots
        self._doorbells = [Doorbell(slots, i, fd) for i, fd in enumerate(setup.doorbell_fds)]
        producer = Producer(setup.rings[slot], slots.incarnation(slot))
        seed = int.from_bytes(os.urandom(8), "little")
        dispatcher = Dispatcher(Sublist(seed=setup.hash_seed), producer, slot, seed, setup.routers)
        policies = setup.config.queue_policies
        dispatcher.set_policies(policies, setup.account_ids, setup.server_name)
        self._dispatcher = dispatcher
        self._control = Control(setup.control_dir, slot, slots.incarnation(slot), loop)
        self._mesh = Mesh(
            slots, setup.rings, self._doorbells, slot, dispatcher, self._control, None
        )
        self._bus = MeshBus(
            dispatcher,
            self._mesh,
            self._doorbells[slot],
            setup.account_ids[options.account],
            pool.PREFIX,
        )
        index = slot - setup.streaming_first
        self._served = Served(
            options, self._bus, store, index, loop, setup.server_id, self._finish, self.fail
        )
        self._server = self._served.server
        self._inquiries = Inquiries(
            setup.inquiries[slot],
            loop,
            answers(self._server, setup.server_id, loop),
        )

    # --- life ----------------------------------------------------------------------------------

    def start(self) -> None:
        """Join the mesh."""
        self._control.start(
            self._mesh.on_message, self._on_control, lambda _client, _ms: None, self._on_topology
        )
        self._loop.add_reader(self._doorbells[self._slot].fd, self._on_doorbell)
        self._loop.add_reader(self._orders.fileno(), self._on_orders)
        self._loop.add_signal_handler(signal.SIGTERM, self.stop)
        self._loop.add_signal_handler(signal.SIGUSR1, self._reopen_log)
        self._mesh.join()
        self._notify_supervisor()
        self._on_control()
        self._tick()

    def stop(self) -> None:
        """What is under way ends and is answered, then the process ends."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._on_doorbell()  # what has arrived before the signal
        if self._is_present:
            self._inquiries.stop()
        self._setup.slots.set_state(self._slot, State.STOPPING)
        self._served.stop(self._stopped)

    def _stopped(self) -> None:
        self._finish()
        self._loop.stop()

    def fail(self, fault: BaseException) -> None:
        """Something that must not happen has happened; or the operator has to change something."""
        if isinstance(fault, BootError | StoreError):
            log.critical("STREAM: %s", fault)
            self.exit_code = code_of(fault)
        else:
            self._fault = fault
        self._loop.stop()

    def close(self) -> None:
        """After the loop has ended."""
        self._control.close()
        if self._fault is not None:
            raise self._fault

    def _on_doorbell(self) -> None:
        self._bus.run(_now_ms())
        if self._setup.slots.epoch != self._epoch:
            self._look_for_others()
        if not self._is_present:
            self._begin()

    def _look_for_others(self) -> None:
        """Tells the server which of the pool's workers have ended."""
        slots = self._setup.slots
        self._epoch = slots.epoch
        for slot in self._setup.streaming_slots:
            if slot == self._slot:
                continue
            known, incarnation = self._others.get(slot, 0), slots.incarnation(slot)
            is_there = slots.state(slot) != State.EMPTY
            if known and (known != incarnation or not is_there):
                self._server.lose(slot - self._setup.streaming_first)
            self._others[slot] = incarnation if is_there else 0

    def _on_control(self) -> None:
        """Control messages came in."""
        self._begin()
        self._finish()

    def _begin(self) -> None:
        """Serve as soon as everybody is known; be ready as soon as clients can be served."""
        if not self._is_begun and self._mesh.knows_all() and self._has_looked_around():
            self._is_begun = True
            recovered, self._recovered = self._recovered, None
            self._served.start(recovered, self._on_serving)
            if self._served.stands_by:
                self._appear()
        must_tell = self._is_present and not self._is_ready and not self._is_stopping
        if must_tell and self._mesh.is_complete():
            self._is_ready = True
            self._notify_supervisor()

    def _has_looked_around(self) -> bool:
        """Whether other hosts had the time to say what they want: one of them may have a server
        with the same cluster ID, which the lead is about to ask for."""
        return time.monotonic() >= self._routes_until

    def _on_topology(self, content: tuple[Any, ...]) -> None:
        """The router tells of other hosts; what they want follows at once."""
        if Topology.of(content).urls:
            self._routes_until = min(self._routes_until, time.monotonic() + _ROUTE_INTEREST_S)
        self._served.servers_changed()

    def _on_serving(self, error: str) -> None:
        if error:
            self.fail(StoreError(error))
            return
        if not self._is_present:
            self._appear()
            self._begin()

    def _appear(self) -> None:
        """Clients of the host may come: this worker serves, or another server does so for it."""
        self._is_present = True
        self._inquiries.start()

    def _finish(self) -> None:
        self._bus.finish(_now_ms())

    def _tick(self) -> None:
        self._loop.call_later(_TICK_S, self._tick)
        self._setup.slots.beat(self._slot)
        logs.tick()
        if not self._is_ready:
            self._on_control()

    def _notify_supervisor(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._setup.supervisor_fd, (1).to_bytes(8, "little"))

    def _reopen_log(self) -> None:
        try:
            logs.reopen()
        except BootError as error:
            log.error("%s", error)

    # --- orders of the supervisor --------------------------------------------------------------

    def _on_orders(self) -> None:
        for order in self._orders.take():
            if isinstance(order, Reload):
                with contextlib.suppress(BootError):  # the log of before is as good
                    logs.configure(order.config, self._setup.name_of(self._slot).lower())
                policies = order.config.queue_policies
                self._dispatcher.set_policies(policies, order.account_ids, self._setup.server_name)
                self._orders.answer(order.generation)
            elif isinstance(order, LameDuck):
                # Clients go one by one and are served until the last.
                self._orders.answer(order.generation)


def run(setup: HostSetup, slot: int) -> int:
    """Be a streaming worker until a signal ends it; returns the exit code.

    Raises:
        Exception: an invariant broke; the caller logs it and ends the process.
    """
    options = setup.config.streaming
    assert options is not None
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        store = open_store(options, slot - setup.streaming_first, options.workers, loop)
        recovered = None if options.ft_group else recover(store, options)
    except (BootError, StoreError) as error:
        log.critical("STREAM: %s", error)
        loop.close()
        return code_of(error)
    worker = StreamingWorker(setup, slot, loop, store, recovered)
    run_loop(loop, worker)
    return worker.exit_code


def code_of(error: Exception) -> ExitCode:
    """What a process returns that cannot serve, or not any more, for a reason it has said."""
    is_waiting = isinstance(error, StoreUnavailableError)
    return ExitCode.STORE_UNAVAILABLE if is_waiting else ExitCode.CONFIGURATION


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000
