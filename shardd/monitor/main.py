"""The monitor process: boot, run, end.

A member of the mesh that has no clients; it gathers what the other processes tell and serves it
over HTTP. If it dies the supervisor starts another one; messages go on.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from typing import Any

import uvloop

from shardd import log as logs
from shardd.errors import BootError, ExitCode
from shardd.host import HostSetup
from shardd.monitor.asker import Asker
from shardd.monitor.gathering import Gathering
from shardd.monitor.http import Monitoring
from shardd.monitor.member import Member
from shardd.monitor.metrics import Metrics
from shardd.monitor.streaming import StreamingDocuments
from shardd.monitor.system import SystemService
from shardd.orders import LameDuck, Reload
from shardd.pulse import Pulse, run_loop
from shardd.slots import State
from shardd.tls import server_context

log = logging.getLogger("shardd.monitor")


class Monitor:
    """The parts of the monitor, wired. Lives in the child, in its event loop."""

    def __init__(self, setup: HostSetup, index: int, loop: asyncio.AbstractEventLoop) -> None:
        self._setup = setup
        self._index = index
        self._loop = loop
        self._fault: BaseException | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._orders = setup.orders[index].receiver()
        self._asker = Asker(setup.inquiry_paths())
        self._gathering = Gathering(setup, self._asker, setup.start_ns)
        self._metrics = Metrics(setup, self._gathering)
        streaming = StreamingDocuments(setup, self._asker)
        base_path = setup.config.http_base_path
        self._http = Monitoring(self._gathering, streaming, self._metrics, base_path)
        self._member = Member(
            setup, index, loop, self._on_message, self._on_complete, self._gathering.note_topology
        )
        self._system = self._make_system()
        self._pulse = Pulse(setup.slots, index, loop, self._member.tick)

    def _make_system(self) -> SystemService | None:
        """The service in the system account, if there is one."""
        setup = self._setup
        account = setup.account_ids.get(setup.config.system_account)
        if account is None:
            return None
        return SystemService(
            self._member, self._gathering, setup.envelope(), account, _reload, self._kick
        )

    def start(self) -> None:
        """Join the mesh."""
        self._loop.add_reader(self._orders.fileno(), self._on_orders)
        self._loop.add_signal_handler(signal.SIGTERM, self.stop)
        self._loop.add_signal_handler(signal.SIGUSR1, self._reopen_log)
        self._member.start()
        self._notify_supervisor()
        self._pulse.beat()

    def stop(self) -> None:
        """Answer no more, and end."""
        if self._system is not None:
            self._system.say_shutdown()
        self._setup.slots.set_state(self._index, State.STOPPING)
        self._spawn(self._end())

    def fail(self, fault: BaseException) -> None:
        """Something that must not happen has happened."""
        self._fault = fault
        self._loop.stop()

    def close(self) -> None:
        """After the loop has ended."""
        self._member.close()
        if self._fault is not None:
            raise self._fault

    async def _end(self) -> None:
        await self._http.stop()
        self._loop.stop()

    def _on_message(
        self, _: bytes, subject: bytes, reply: bytes, header: bytes, payload: bytes
    ) -> None:
        if self._system is not None:
            self._system.on_message(subject, reply, header, payload)

    async def _kick(self, cid: int, is_lame_duck: bool) -> bool:
        """Ends a client, or tells it of lame duck mode; False: there is none with that number."""
        question = {"ask": "kick", "cid": cid, "is_lame_duck": is_lame_duck}
        workers = range(self._setup.worker_count)
        return any(answer["done"] for answer in await self._asker.last(workers, question))

    def _on_complete(self) -> None:
        """Everybody is known: answer from now on."""
        self._spawn(self._serve())

    async def _serve(self) -> None:
        if self._system is not None:
            self._system.start()
        listener = self._setup.http_listener
        if listener is not None:
            config = self._setup.config
            tls = config.tls if config.https_port else None
            await self._http.start(listener, server_context(tls) if tls is not None else None)
        self._notify_supervisor()

    def _spawn(self, work: Any) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.fail(error)

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
                self._reload(order)
                self._orders.answer(order.generation)
            elif isinstance(order, LameDuck):
                if self._system is not None:
                    self._system.say_lame_duck()
                self._orders.answer(order.generation)

    def _reload(self, order: Reload) -> None:
        config = order.config
        with contextlib.suppress(BootError):
            logs.configure(config, "monitor")
        self._member.choose_by(config, order.account_ids)
        self._gathering.reload(config, time.time_ns())


def _reload() -> None:
    """As an operator's HUP."""
    os.kill(os.getppid(), signal.SIGHUP)


def run(setup: HostSetup, index: int) -> int:
    """Be the monitor until a signal ends it; returns the exit code.

    Raises:
        Exception: an invariant broke; the caller logs it and ends the process.
    """
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    run_loop(loop, Monitor(setup, index, loop))
    return ExitCode.CLEAN
