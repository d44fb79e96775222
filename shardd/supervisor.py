"""The supervisor: prepares the host, forks one worker per core, watches, replaces and stops them.

It touches no client byte and owns no event loop, no thread and no ZeroMQ context, so that it can
fork at any time. Its loop sleeps on three things: a signal, a worker that says that its state
has changed, the next deadline of its `Watch`, which decides what is to be done. Signal handlers
only queue.
"""

import contextlib
import dataclasses
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final, Protocol

from shardd import limits, log, reload
from shardd.config.core import Config
from shardd.errors import BootError, ConfigError, ExitCode
from shardd.host import HostSetup, number_accounts
from shardd.identity import new_server_id
from shardd.orders import LameDuck, Order, OrderChannel, Reload, Shed
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
from shardd.sockets import (
    join_address,
    listener_urls,
    open_handovers,
    open_listeners,
    open_unix_listener,
)
from shardd.version import NATS_VERSION, SHARDD_VERSION
from shardd.watch import Order as WatchOrder
from shardd.watch import Verb, Watch

_log = logging.getLogger("shardd.supervisor")

WorkerMain = Callable[[HostSetup, int], int]
Reread = Callable[[], Config]  # raises ConfigError

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


def run(config: Config, worker_main: WorkerMain, reread: Reread | None = None) -> int:
    """Runs the server until it is told to stop; returns the exit code of the process.

    `reread` makes the configuration anew for a reload; None: there is no file to read.
    `worker_main` is what a worker does with its life. Whoever passes it has imported all that
    workers need, so that the fork shares those pages, and has configured the log.
    """
    try:
        with ExitStack() as stack:
            setup, release = _prepare(config, stack)
            supervisor = _make_supervisor(setup, worker_main, release, reread, stack)
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
    _say_starting(config, server_id, server_name)
    raise_file_limit()
    listeners = open_listeners(config.host, config.port, worker_count)
    for listener in listeners:
        stack.callback(listener.close)
    websockets = _open_websockets(config, worker_count, stack)
    unix = None
    if config.unix is not None:
        unix = open_unix_listener(config.unix.path, config.unix.mode)
        stack.callback(_close_unix, unix, config.unix.path, os.getpid())
    port: int = listeners[0].getsockname()[1]
    if config.pid_file:
        write_pid_file(config.pid_file)
    handovers = open_handovers(worker_count)
    for inlet, outlet in handovers:
        stack.callback(inlet.close)
        stack.callback(outlet.close)
    runtime = RuntimeDirectory.create()
    stack.callback(runtime.close)
    orders = tuple(OrderChannel() for _ in range(worker_count))
    for channel in orders:
        stack.callback(channel.close)
    _say_listening(config, port)
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
        websocket_listeners=websockets,
        unix_listener=unix,
        orders=orders,
        account_ids=number_accounts(config.account_names, {}),
    )

    def release(index: int) -> None:
        """In a child: lets go of what is the supervisor's and the other workers'."""
        runtime.leave_in_child()
        for number in range(worker_count):
            orders[number].leave_in_child(number == index)
            if number != index:
                listeners[number].close()
                handovers[number][0].close()
                if websockets:
                    websockets[number].close()

    return setup, release


def _say_starting(config: Config, server_id: str, server_name: str) -> None:
    _log.info("Starting shardd")
    _log.info("  Version:  %s", NATS_VERSION)
    _log.info("  Shardd:   %s", SHARDD_VERSION)
    _log.info("  Name:     %s", server_name)
    _log.info("  ID:       %s", server_id)
    _log.info("  Workers:  %d", config.worker_count)
    if config.config_file is not None:
        _log.info("Using configuration file: %s (%s)", config.config_file, config.config_digest)
    for warning in config.warnings:
        _log.warning("%s", warning)


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


def _close_unix(listener: socket.socket, path: str, owner: int) -> None:
    """Takes the socket out of the file system, unless this is a child that only lets go of it."""
    listener.close()
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _make_supervisor(
    setup: HostSetup,
    worker_main: WorkerMain,
    release: Callable[[int], None],
    reread: Reread | None,
    stack: ExitStack,
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
        """In a child: a worker's life, as the host is now: a reload may have changed it."""
        current = supervisor.setup
        current.slots.set_pid(index, os.getpid())
        with contextlib.suppress(BootError):  # the log of the supervisor is as good
            log.configure(current.config, f"worker {index}")
        return worker_main(current, index)

    children = Children(body, leave, usable_cores() if config.pin else ())
    freeze_heap()
    supervisor = Supervisor(setup, children, signals, time.monotonic, ports_file, reread)
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
        reread: Reread | None = None,
    ) -> None:
        self._setup = setup
        self._reread = reread
        self._generation = 0
        self._unanswered: set[int] = set()  # workers that have not carried out the last order
        self._lame_duck_until: float | None = None
        self._children = children
        self._signals = signals
        self._clock = clock
        self._ports_file = ports_file
        self._watch = Watch(setup.worker_count, setup.config.heartbeat_silence_s, clock())
        self._was_ready = False
        self._poll = select.poll()
        self._poll.register(signals.fileno(), select.POLLIN)
        self._poll.register(setup.supervisor_fd, select.POLLIN)
        for channel in setup.orders:
            self._poll.register(channel.fileno(), select.POLLIN)

    @property
    def setup(self) -> HostSetup:
        """The host as a worker that is forked now finds it."""
        return self._setup

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
        self._take_answers()
        self._end_lame_duck()
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
                self._ports_file.write(self._urls())
            _log.info("Server is ready")

    def _handle_signal(self, number: signal.Signals) -> None:
        if number == signal.SIGCHLD:
            return
        _log.info('Trapped "%s" signal', _SIGNAL_NAMES[number])
        if number == signal.SIGUSR1:
            self._reopen_logs()
        elif number == signal.SIGHUP:
            self._reload()
        elif number == signal.SIGUSR2:
            self._start_lame_duck()
        elif number == signal.SIGTERM and self._lame_duck_until is not None:
            _log.info("Ignoring the signal, the server is in lame duck mode")
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

    # --- reload --------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Reads the configuration anew and hands it to every worker, or changes nothing."""
        if self._reread is None:
            _log.error(
                "Failed to reload server configuration: can only reload config when a file is"
                " provided using -c or --config"
            )
            return
        if self._watch.is_stopping or self._lame_duck_until is not None:
            return
        try:
            config = self._reread()
            lines = reload.changes(self._setup.config, config)
            log.configure(config, "supervisor")
            if config.pid_file and config.pid_file != self._setup.config.pid_file:
                write_pid_file(config.pid_file)
        except (ConfigError, BootError) as error:
            with contextlib.suppress(BootError):
                log.configure(self._setup.config, "supervisor")
            _log.error("Failed to reload server configuration: %s", error)
            return
        for line in lines:
            _log.info("%s", line)
        ids = number_accounts(config.account_names, self._setup.account_ids)
        self._setup = dataclasses.replace(self._setup, config=config, account_ids=ids)
        self._generation += 1
        self._order(Reload(self._generation, config, ids))
        if not self._unanswered:
            self._end_reload()

    def _order(self, order: Order) -> None:
        """Gives an order to every worker that lives; one that does not takes it will be replaced
        by one that starts with it."""
        self._unanswered = set()
        for index, channel in enumerate(self._setup.orders):
            pid = self._watch.pid(index)
            if not pid:
                continue
            if channel.send(order):
                self._unanswered.add(index)
            else:
                _log.error("Worker %d, pid %d, takes no orders, ending it", index, pid)
                self._children.signal(pid, signal.SIGABRT)

    def _take_answers(self) -> None:
        was_waiting = bool(self._unanswered)
        for index, channel in enumerate(self._setup.orders):
            for answer in channel.answers():
                if answer.generation == self._generation:
                    self._unanswered.discard(index)
        if was_waiting and not self._unanswered and self._lame_duck_until is None:
            self._end_reload()

    def _end_reload(self) -> None:
        """Every worker serves by the new configuration: what it leaves too many, goes."""
        slots, config = self._setup.slots, self._setup.config
        counts = [slots.counters(index)["connections"] for index in range(self._setup.worker_count)]
        shares = reload.shares_to_shed(counts, config.max_connections)
        if any(shares):
            _log.info("Closed %d connections to fall within max_connections", sum(shares))
        for channel, count in zip(self._setup.orders, shares, strict=True):
            if count:
                channel.send(Shed(count))
        _log.info("Reloaded server configuration (%s)", self._setup.config.config_digest)

    # --- lame duck mode ------------------------------------------------------------------------

    def _start_lame_duck(self) -> None:
        """Accepts nobody more, and stops when the workers have let everybody go (sheet 6)."""
        if self._watch.is_stopping or self._lame_duck_until is not None:
            return
        _log.info("Entering lame duck mode, stop accepting new clients")
        config = self._setup.config
        self._lame_duck_until = (
            self._clock() + config.lame_duck_duration_s + limits.HEARTBEAT_SILENCE_S
        )
        for listener in (*self._setup.listeners, *self._setup.websocket_listeners):
            listener.close()
        if self._setup.unix_listener is not None:
            self._setup.unix_listener.close()
        self._generation += 1
        self._order(LameDuck(self._generation))

    def _end_lame_duck(self) -> None:
        if self._lame_duck_until is None or self._watch.is_stopping:
            return
        now = self._clock()
        is_empty = not self._unanswered and not self._setup.slots.totals()["connections"]
        if is_empty or now >= self._lame_duck_until:
            _log.info("Initiating Shutdown...")
            self._watch.stop(now)

    def _urls(self) -> dict[str, list[str]]:
        """What the ports file lists."""
        scheme = "nats" if self._setup.config.tls is None else "tls"
        urls = {"nats": listener_urls(self._setup.listeners[0], scheme)}
        if self._setup.websocket_listeners:
            websocket = self._setup.config.websocket
            scheme = "ws" if websocket is None or websocket.tls is None else "wss"
            urls["websocket"] = listener_urls(self._setup.websocket_listeners[0], scheme)
        return urls

    def _handle_end(self, ended: Ended) -> None:
        was_stopping = self._watch.is_stopping
        ending = self._watch.ended(ended.pid, self._clock())
        if ending is None:
            return
        self._setup.slots.clear(ending.index)
        self._setup.quotas.clear(ending.index)
        self._unanswered.discard(ending.index)
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

    def _carry_out(self, order: WatchOrder) -> None:
        if order.verb is Verb.START:
            self._start(order.index)
            return
        if order.reason:
            _log.error("Worker %d, pid %d: %s", order.index, order.pid, order.reason)
        self._children.signal(order.pid, _ORDER_SIGNALS[order.verb])

    def _start(self, index: int) -> None:
        slots = self._setup.slots
        if self._setup.orders:
            self._setup.orders[index].discard()
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
