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
from typing import Any, Final

import uvloop

from shardd import log as logs
from shardd.errors import BootError, CloseReason, ExitCode
from shardd.host import HostSetup
from shardd.outbound import OutboundSet
from shardd.poller import Poller
from shardd.router.control import Control
from shardd.router.dispatch import Dispatcher
from shardd.router.doorbell import Doorbell
from shardd.router.mesh import Mesh
from shardd.router.ring import Producer
from shardd.router.sublist import Sublist
from shardd.slots import State
from shardd.timers import Deadlines
from shardd.worker.info import InfoTemplate
from shardd.worker.listener import Listener
from shardd.worker.pump import Pump
from shardd.worker.shared import Shared

_TICK_S: Final = 0.05  # resolution of pings, write deadlines and heartbeats

log = logging.getLogger("shardd.worker")


class Worker:
    """The parts of one worker, wired. Lives in the child, in its event loop."""

    def __init__(self, setup: HostSetup, index: int, loop: asyncio.AbstractEventLoop) -> None:
        self._setup = setup
        self._index = index
        self._loop = loop
        self._fault: BaseException | None = None
        self._is_accepting = False
        slots = setup.slots
        config = setup.config
        seed = int.from_bytes(os.urandom(8), "little")
        self._doorbells = [Doorbell(slots, i, fd) for i, fd in enumerate(setup.doorbell_fds)]
        self._sublist = Sublist(seed=setup.hash_seed)
        producer = Producer(setup.rings[index], slots.incarnation(index))
        self._dispatcher = Dispatcher(self._sublist, producer, index, seed)
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
        info = InfoTemplate(config, setup.server_id, setup.server_name, setup.host, setup.port)
        self._deadlines = Deadlines()
        self._shared = Shared(
            config,
            info,
            self._poller,
            outbounds,
            self._dispatcher,
            self._mesh,
            self._deadlines,
            seed,
        )
        self._pump = Pump(self._shared, self._doorbells[index], loop.call_later)
        self._listener = Listener(
            self._shared,
            setup.listeners[index],
            setup.handovers,
            setup.worker_count,
            loop.call_later,
        )

    def start(self) -> None:
        """Join the mesh. `Server is ready` is the supervisor's to say, when all have."""
        self._control.start(self._mesh.on_message, self._on_control, self._on_stall)
        self._loop.add_reader(self._poller.fd, self._pump.run)
        self._loop.add_signal_handler(signal.SIGTERM, self.stop)
        self._loop.add_signal_handler(signal.SIGUSR1, self._reopen_log)
        self._mesh.join()
        self._notify_supervisor()
        self._on_control()
        self._tick()

    def stop(self) -> None:
        """Accept no more, say what is queued, close every client, end the loop."""
        self._listener.stop()
        # What was read before the signal, and what peers have sent, is still delivered.
        self._pump.run()
        self._shared.slots.set_state(self._index, State.STOPPING)
        for connection in list(self._shared.connections.values()):
            connection.close(CloseReason.SERVER_SHUTDOWN)
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
        if not self._is_accepting and self._mesh.is_complete():
            self._is_accepting = True
            self._listener.start()
            self._notify_supervisor()
        self._pump.finish()

    def _on_stall(self, client_id: int, milliseconds: int) -> None:
        connection = self._shared.connections.get(client_id)
        if connection is not None:
            connection.stall(milliseconds)

    def _tick(self) -> None:
        self._loop.call_later(_TICK_S, self._tick)
        self._shared.slots.beat(self._index)
        self._shared.tick()
        if not self._is_accepting:
            self._on_control()
        self._pump.finish()

    def _reopen_log(self) -> None:
        try:
            logs.reopen()
        except BootError as error:
            log.error("%s", error)

    def _notify_supervisor(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.write(self._setup.supervisor_fd, (1).to_bytes(8, "little"))


def run(setup: HostSetup, index: int) -> int:
    """Be worker `index` until a signal ends it; returns the exit code.

    Raises:
        Exception: an invariant broke; the caller logs it and ends the process.
    """
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    worker = Worker(setup, index, loop)

    def on_exception(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        worker.fail(context.get("exception") or RuntimeError(context["message"]))

    loop.set_exception_handler(on_exception)
    loop.call_soon(worker.start)
    try:
        loop.run_forever()
    finally:
        worker.close()
        loop.close()
    return ExitCode.CLEAN
