"""The supervisor: prepares the host, forks one worker per core, watches, replaces and stops them.

It touches no client byte and owns no event loop, no thread and no ZeroMQ context, so that it can
fork at any time. Its loop sleeps on three things: a signal, a worker that says that its state
has changed, the next deadline of its `Watch`, which decides what is to be done. Signal handlers
only queue.
"""

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, Protocol

from shardd import log
from shardd.config.core import Config
from shardd.errors import BootError, ExitCode
from shardd.host import HostSetup
from shardd.identity import new_server_id
from shardd.process import (
    Children,
    Ended,
    SignalQueue,
    freeze_heap,
    raise_file_limit,
    usable_cores,
)
from shardd.router.ring import Ring
from shardd.runfiles import PortsFile, RuntimeDirectory, write_pid_file
from shardd.slots import Slots, State
from shardd.sockets import join_address, listener_urls, open_handovers, open_listeners
from shardd.version import NATS_VERSION, SHARDD_VERSION
from shardd.watch import Order, Verb, Watch

_log = logging.getLogger("shardd.supervisor")

WorkerMain = Callable[[HostSetup, int], int]

_SIGNALS: Final = (
    signal.SIGCHLD,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
# The words that nats-server has for them in its log.
_SIGNAL_NAMES: Final = {
    signal.SIGTERM: "terminated",
    signal.SIGINT: "interrupt",
    signal.SIGHUP: "hangup",
    signal.SIGUSR1: "user defined signal 1",
    signal.SIGUSR2: "user defined signal 2",
}
_ORDER_SIGNALS: Final = {
    Verb.TERMINATE: signal.SIGTERM,
    Verb.ABORT: signal.SIGABRT,
    Verb.KILL: signal.SIGKILL,
}


class ChildrenLike(Protocol):
    """What the supervisor needs of processes; `process.Children`, or a test's stand-in."""

    def start(self, index: int) -> int:
        """Forks a worker and returns its pid."""

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Signals a child."""

    def reap(self) -> list[Ended]:
        """The children that have ended."""


class SignalsLike(Protocol):
    """What the supervisor needs of signals; `process.SignalQueue`, or a test's stand-in."""

    def fileno(self) -> int:
        """Readable when a signal waits."""

    def take(self) -> list[signal.Signals]:
        """The signals that arrived since the last call."""


def run(config: Config, worker_main: WorkerMain) -> int:
    """Runs the server until it is told to stop; returns the exit code of the process.

    `worker_main` is what a worker does with its life. Whoever passes it has imported all that
    workers need, so that the fork shares those pages, and has configured the log.
    """
    try:
        with ExitStack() as stack:
            setup, release = _prepare(config, stack)
            supervisor = _make_supervisor(setup, worker_main, release, stack)
            return supervisor.serve()
    except BootError as error:
        _log.critical("%s", error)
        return ExitCode.CONFIGURATION
    except Exception:
        _log.exception("The supervisor failed")
        return ExitCode.SUPERVISOR_FAULT


def _prepare(config: Config, stack: ExitStack) -> tuple[HostSetup, Callable[[int], None]]:
    """Makes everything that outlives a worker, and what closes a child's copy of it.

    `stack` undoes it all at the end.
    """
    server_id = new_server_id()
    server_name = config.server_name or server_id
    worker_count = config.worker_count
    _log.info("Starting shardd")
    _log.info("  Version:  %s", NATS_VERSION)
    _log.info("  Shardd:   %s", SHARDD_VERSION)
    _log.info("  Name:     %s", server_name)
    _log.info("  ID:       %s", server_id)
    _log.info("  Workers:  %d", worker_count)
    raise_file_limit()
    listeners = open_listeners(config.host, config.port, worker_count)
    for listener in listeners:
        stack.callback(listener.close)
    port: int = listeners[0].getsockname()[1]
    if config.pid_file:
        write_pid_file(config.pid_file)
    handovers = open_handovers(worker_count)
    for inlet, outlet in handovers:
        stack.callback(inlet.close)
        stack.callback(outlet.close)
    runtime = RuntimeDirectory.create()
    stack.callback(runtime.close)
    _log.info("Listening for client connections on %s", join_address(config.host, port))
    setup = HostSetup(
        config=config,
        server_id=server_id,
        server_name=server_name,
        host=config.host,
        port=port,
        worker_count=worker_count,
        slots=Slots(worker_count),
        rings=tuple(Ring(config.ring_bytes, worker_count) for _ in range(worker_count)),
        doorbell_fds=tuple(_eventfd(stack) for _ in range(worker_count)),
        listeners=listeners,
        handovers=handovers,
        control_dir=str(runtime.path),
        supervisor_fd=_eventfd(stack),
        hash_seed=int.from_bytes(os.urandom(8), "little"),
    )

    def release(index: int) -> None:
        """In a child: lets go of what is the supervisor's and the other workers'."""
        runtime.leave_in_child()
        for number, listener in enumerate(listeners):
            if number != index:
                listener.close()
                handovers[number][0].close()

    return setup, release


def _make_supervisor(
    setup: HostSetup, worker_main: WorkerMain, release: Callable[[int], None], stack: ExitStack
) -> "Supervisor":
    """The supervisor of a host that is prepared, its signals and files; `stack` undoes it."""
    config = setup.config
    ports_file = None
    if config.ports_file_dir:
        ports_file = PortsFile(config.ports_file_dir)
        ports_file.check()
        stack.callback(ports_file.remove)
    signals = SignalQueue(_SIGNALS)
    stack.callback(signals.close)

    def leave(index: int) -> None:
        signals.leave_in_child()
        release(index)

    def body(index: int) -> int:
        """In a child: a worker's life."""
        setup.slots.set_pid(index, os.getpid())
        with contextlib.suppress(BootError):  # the log of the supervisor is as good
            log.configure(config, f"worker {index}")
        return worker_main(setup, index)

    children = Children(body, leave, usable_cores() if config.pin else ())
    freeze_heap()
    supervisor = Supervisor(setup, children, signals, time.monotonic, ports_file)
    stack.callback(supervisor.close)
    return supervisor


class Supervisor:
    """One host's workers while they live; owned by the only thread of the supervisor process."""

    def __init__(
        self,
        setup: HostSetup,
        children: ChildrenLike,
        signals: SignalsLike,
        clock: Callable[[], float],
        ports_file: PortsFile | None = None,
    ) -> None:
        self._setup = setup
        self._children = children
        self._signals = signals
        self._clock = clock
        self._ports_file = ports_file
        self._watch = Watch(setup.worker_count, setup.config.heartbeat_silence_s, clock())
        self._was_ready = False
        self._poll = select.poll()
        self._poll.register(signals.fileno(), select.POLLIN)
        self._poll.register(setup.supervisor_fd, select.POLLIN)

    def serve(self) -> int:
        """The loop: until every worker has ended after a stop. Returns the exit code."""
        while True:
            self.step()
            if self._watch.has_stopped:
                break
            self._poll.poll(1000 * self._watch.wait_s(self._clock()))
        if self._watch.failure:
            return ExitCode.WORKER_BOOT_FAILED
        _log.info("Server Exiting..")
        return ExitCode.CLEAN

    def step(self) -> None:
        """One pass: what was signalled, who has ended, who is ready, what is due. Never waits."""
        for number in self._signals.take():
            self._handle_signal(number)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._setup.supervisor_fd)
        # Reap first, look at the page next: a worker that was ready before it died was ready.
        ended = self._children.reap()
        self._look()
        for each in ended:
            self._handle_end(each)
        for order in self._watch.due(self._clock()):
            self._carry_out(order)

    def close(self) -> None:
        """Leaves no child behind, whatever the reason for leaving."""
        for pid in self._watch.pids():
            self._children.signal(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _look(self) -> None:
        """Reads every worker's state and heartbeat from the shared page."""
        slots = self._setup.slots
        now = self._clock()
        for index in range(self._setup.worker_count):
            is_ready = slots.state(index) == State.READY
            became_ready = self._watch.seen(index, is_ready, slots.heartbeat(index), now)
            if became_ready and self._was_ready:
                _log.info("Worker %d is ready, pid %d", index, slots.pid(index))
        if not self._was_ready and self._watch.is_ready and not self._watch.is_stopping:
            self._was_ready = True
            if self._ports_file is not None:
                self._ports_file.write(listener_urls(self._setup.listeners[0]))
            _log.info("Server is ready")

    def _handle_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGCHLD:
            return
        _log.info('Trapped "%s" signal', _SIGNAL_NAMES[number])
        if number == signal.SIGUSR1:
            self._reopen_logs()
        elif number == signal.SIGHUP:
            _log.warning("Reloading the configuration is not supported, the old one stays in force")
        elif number == signal.SIGUSR2:
            _log.warning("Lame duck mode is not supported, the server goes on")
        elif self._watch.is_stopping and number == signal.SIGINT:
            self._watch.stop_at_once()
        elif not self._watch.is_stopping:
            _log.info("Initiating Shutdown...")
            self._watch.stop(self._clock())

    def _reopen_logs(self) -> None:
        """Every process has a descriptor of its own."""
        if self._setup.config.log_file is None:
            _log.info("File log re-open ignored, not a file logger")
            return
        try:
            log.reopen()
        except BootError as error:
            _log.error("%s", error)
            return
        for pid in self._watch.pids():
            self._children.signal(pid, signal.SIGUSR1)
        _log.info("File log re-opened")

    def _handle_end(self, ended: Ended) -> None:
        was_stopping = self._watch.is_stopping
        ending = self._watch.ended(ended.pid, self._clock())
        if ending is None:
            return
        self._setup.slots.clear(ending.index)
        self._ring_all()
        if was_stopping:
            return
        phase = "" if ending.was_ready else " while booting"
        if ending.restart_s is None:
            _log.error("Worker %d, pid %d, ended%s: %s", ending.index, ended.pid, phase, ended.text)
            _log.critical("%s, giving up", self._watch.failure)
        else:
            _log.error(
                "Worker %d, pid %d, ended%s: %s, replacing it in %.2fs",
                ending.index,
                ended.pid,
                phase,
                ended.text,
                ending.restart_s,
            )

    def _ring_all(self) -> None:
        """Wakes every worker, asleep or not: the page has changed.

        A `Doorbell` would do the same but own its descriptor, and these are the workers' to own.
        """
        for fd in self._setup.doorbell_fds:
            with contextlib.suppress(BlockingIOError):  # rung more often than it can count
                os.eventfd_write(fd, 1)

    def _carry_out(self, order: Order) -> None:
        if order.verb is Verb.START:
            self._start(order.index)
            return
        if order.reason:
            _log.error("Worker %d, pid %d: %s", order.index, order.pid, order.reason)
        self._children.signal(order.pid, _ORDER_SIGNALS[order.verb])

    def _start(self, index: int) -> None:
        slots = self._setup.slots
        slots.reset(index, 0)  # before the fork, so that the child finds its slot prepared
        try:
            pid = self._children.start(index)
        except OSError as error:
            slots.clear(index)
            wait_s = self._watch.not_started(index, self._clock())
            _log.error(
                "Could not fork worker %d: %s, trying again in %.2fs",
                index,
                error.strerror,
                wait_s,
            )
            return
        slots.set_pid(index, pid)
        self._watch.started(index, pid, self._clock())


def _eventfd(stack: ExitStack) -> int:
    fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    stack.callback(os.close, fd)
    return fd
