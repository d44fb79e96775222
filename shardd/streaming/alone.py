"""`shardd streaming --nats URL`: the pool as one process of its own, a client of NATS servers.

One process owns every part of the store. It keeps running while NATS cannot be reached, reads its
store before it connects for the first time (unless it stands by for another server), and leaves it
to whoever started it to start it again.
"""

import asyncio
import dataclasses
import logging
import os
import signal
import socket
from contextlib import ExitStack
from typing import Final

import uvloop

from shardd import log as logs
from shardd.config.core import Config
from shardd.config.streaming import StreamingOptions
from shardd.errors import BootError, ConfigError, ExitCode, StoreError
from shardd.host import say_streaming
from shardd.identity import new_server_id
from shardd.inquiry import Inquiries, open_inquiries
from shardd.login import NatsUrl
from shardd.notify import Notifier
from shardd.pulse import TICK_S, run_loop
from shardd.runfiles import RuntimeDirectory, write_pid_file
from shardd.streaming.dialer import Dialer
from shardd.streaming.main import code_of
from shardd.streaming.questions import answers, process_name
from shardd.streaming.served import Served
from shardd.streaming.store import Recovered, Store
from shardd.streaming.stores import open_store, recover
from shardd.streaming.tcp_bus import TcpBus

_CLOSE_S: Final = 0.05  # for what is written last to leave

log = logging.getLogger("shardd.streaming")


class Alone:
    """The parts of a pool that runs alone, wired. Lives in its event loop."""

    def __init__(
        self,
        options: StreamingOptions,
        loop: asyncio.AbstractEventLoop,
        store: Store,
        recovered: Recovered | None,
        inquiries: socket.socket,
        notifier: Notifier,
    ) -> None:
        self._notifier = notifier
        self._loop = loop
        self._fault: BaseException | None = None
        self._recovered = recovered
        self._is_begun = False
        self._is_stopping = False
        self.exit_code = ExitCode.CLEAN
        self._bus = TcpBus()
        name = f"_NSS-{options.cluster_id}-general"
        self._dialer = Dialer(self._bus, options.nats, name, self._on_connected)
        self._task: asyncio.Task[None] | None = None
        server_id = new_server_id()
        self._served = Served(
            options, self._bus, store, 0, loop, server_id, self._bus.finish, self.fail
        )
        self._inquiries = Inquiries(inquiries, loop, answers(self._served.server, server_id, loop))
        self._is_present = False  # serving, or standing by
        self._dialer.on_servers = self._served.servers_changed

    def start(self) -> None:
        """Begin to connect."""
        self._loop.add_signal_handler(signal.SIGTERM, self._on_signal, signal.SIGTERM)
        self._loop.add_signal_handler(signal.SIGINT, self._on_signal, signal.SIGINT)
        self._loop.add_signal_handler(signal.SIGUSR1, self._reopen_log)
        self._loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        self._task = self._loop.create_task(self._dialer.run())
        self._task.add_done_callback(self._on_end)
        self._tick()

    def _tick(self) -> None:
        self._loop.call_later(TICK_S, self._tick)
        logs.tick()
        if self._is_present:
            self._notifier.alive()

    def _on_connected(self, _: NatsUrl) -> None:
        if not self._is_begun and not self._is_stopping:
            self._is_begun = True
            recovered, self._recovered = self._recovered, None
            self._served.start(recovered, self._on_ready)
            if self._served.stands_by:
                self._appear()

    def _on_ready(self, error: str) -> None:
        if error:
            self.fail(StoreError(error))
            return
        if not self._is_present:
            self._appear()
            log.info("STREAM: Streaming Server is ready")

    def _appear(self) -> None:
        self._is_present = True
        self._inquiries.start()
        self._notifier.ready("Streaming, as a client of NATS servers elsewhere")

    def _on_end(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and task.exception() is not None:
            self.fail(task.exception() or RuntimeError("the dialer ended"))

    def _on_signal(self, number: signal.Signals) -> None:
        if self._is_stopping:
            return
        self._is_stopping = True
        log.info('Trapped "%s" signal', "terminated" if number == signal.SIGTERM else "interrupt")
        log.info("Initiating Shutdown...")
        self._notifier.stopping("Stopping")
        if number == signal.SIGTERM:
            self.exit_code = ExitCode.STREAMING_TERMINATED
        if self._is_present:
            self._inquiries.stop()
        self._served.stop(self._stopped)

    def _stopped(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._bus.close()
        log.info("Server Exiting..")
        # What was written last leaves in the next turns of the loop.
        self._loop.call_later(_CLOSE_S, self._loop.stop)

    def _on_hangup(self) -> None:
        log.error(
            "Failed to reload server configuration: config reload not supported for streaming"
        )

    def _reopen_log(self) -> None:
        try:
            logs.reopen()
        except BootError as error:
            log.error("%s", error)

    def fail(self, fault: BaseException) -> None:
        """Something that must not happen has happened; or the operator has to change something."""
        if isinstance(fault, BootError | StoreError | ConfigError):
            log.critical("STREAM: %s", fault)
            self.exit_code = code_of(fault)
        else:
            self._fault = fault
        self._loop.stop()

    def close(self) -> None:
        """After the loop has ended."""
        if self._fault is not None:
            raise self._fault


def run(config: Config) -> int:
    """Be a pool of one process until a signal ends it; returns the exit code."""
    options = config.streaming
    assert options is not None
    say_streaming(dataclasses.replace(options, workers=1))
    for warning in config.warnings:
        log.warning("%s", warning)
    notifier = Notifier.from_environment(os.environ)
    loop = uvloop.new_event_loop()
    asyncio.set_event_loop(loop)
    with ExitStack() as stack:
        try:
            if config.pid_file:
                write_pid_file(config.pid_file)
            runtime = RuntimeDirectory.create()
            stack.callback(runtime.close)
            inquiries = stack.enter_context(open_inquiries(runtime.path, process_name(0)))
            store = open_store(options, 0, 1, loop)
            recovered = None if options.ft_group else recover(store, options)
            alone = Alone(options, loop, store, recovered, inquiries, notifier)
        except (BootError, StoreError) as error:
            log.critical("STREAM: %s", error)
            loop.close()
            return code_of(error)
        run_loop(loop, alone)
        return alone.exit_code
