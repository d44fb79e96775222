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
from shardd.host import HostSetup, number_accounts, prepare
from shardd.notify import Notifier
from shardd.orders import LameDuck, OrderBody, Reload, Shed
from shardd.process import Children, Ended, SignalQueue, freeze_heap, usable_cores
from shardd.runfiles import PortsFile, write_pid_file
from shardd.slots import State
from shardd.sockets import listener_urls
from shardd.watch import Ending, Verb, Watch
from shardd.watch import Order as WatchOrder

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
    notifier = Notifier.from_environment(os.environ)
    try:
        with ExitStack() as stack:
            setup, release = prepare(config, stack)
            supervisor = _make_supervisor(setup, worker_main, release, reread, notifier, stack)
            return supervisor.serve()
    except BootError as error:
        _log.critical("%s", error)
        return ExitCode.CONFIGURATION
    except Exception:
        _log.exception("The supervisor failed")
        return ExitCode.SUPERVISOR_FAULT


def _make_supervisor(
    setup: HostSetup,
    worker_main: WorkerMain,
    release: Callable[[int], None],
    reread: Reread | None,
    notifier: Notifier,
    stack: ExitStack,
) -> "Supervisor":
    """The supervisor of a host that is prepared, its signals and files; `stack` undoes it."""
    config = setup.config
    ports_file = _ports_file(config)
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
            log.configure(current.config, current.name_of(index).lower())
        return worker_main(current, index)

    children = Children(body, leave, usable_cores() if config.pin else (), setup.name_of)
    freeze_heap()
    supervisor = Supervisor(setup, children, signals, time.monotonic, ports_file, reread, notifier)
    stack.callback(supervisor.close)
    return supervisor


def _ports_file(config: Config) -> PortsFile | None:
    """The ports file, if there shall be one. Raises BootError if it could not be written."""
    if config.ports_file_dir is None:
        return None
    ports_file = PortsFile(config.ports_file_dir)
    ports_file.check()
    return ports_file


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
        notifier: Notifier | None = None,
    ) -> None:
        self._notifier = notifier if notifier is not None else Notifier()
        self._setup = setup
        self._reread = reread
        self._generation = 0
        self._unanswered: set[int] = set()  # workers that have not carried out the last order
        self._is_reloading = False
        self._lame_duck_until: float | None = None
        self._close_at: float | None = None  # when workers begin to let clients go
        self._children = children
        self._signals = signals
        self._clock = clock
        self._ports_file = ports_file
        self._watch = Watch(
            setup.slots.count,
            setup.config.heartbeat_silence_s,
            clock(),
            setup.streaming_slots,
            setup.name_of,
        )
        self._is_refused = False  # a streaming worker cannot serve as it is configured
        self._was_terminated = False
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
            wait_s = min(self._watch.wait_s(self._clock()), self._notifier.wait_s())
            self._poll.poll(1000 * wait_s)
        if self._watch.failure:
            return ExitCode.CONFIGURATION if self._is_refused else ExitCode.WORKER_BOOT_FAILED
        _log.info("Server Exiting..")
        if self._was_terminated and self._setup.streaming_count:
            return ExitCode.STREAMING_TERMINATED
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
        self._pass_lame_duck()
        for order in self._watch.due(self._clock()):
            self._carry_out(order)
        self._report()
        log.tick()

    def _report(self) -> None:
        """Tells the service manager how the host is."""
        if not self._was_ready or self._watch.is_stopping:
            return
        if self._watch.is_well(range(self._setup.worker_count)):
            self._notifier.alive()
        if not self._is_reloading and self._lame_duck_until is None:
            self._notifier.status(self._status())

    def _status(self) -> str:
        """The host in one line."""
        ready, count = self._watch.ready_count, self._setup.slots.count
        if ready < count:
            return f"{ready} of {count} processes are ready, the others are being replaced"
        return f"Serving on port {self._setup.port}, workers: {self._setup.worker_count}"

    def close(self) -> None:
        """Leaves no child and no ports file behind, whatever the reason for leaving."""
        if self._ports_file is not None:
            self._ports_file.remove()
        for pid in self._watch.pids():
            self._children.signal(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)

    def _look(self) -> None:
        """Reads every worker's state and heartbeat from the shared page."""
        slots = self._setup.slots
        now = self._clock()
        for index in range(slots.count):
            is_ready = slots.state(index) == State.READY
            became_ready = self._watch.seen(index, is_ready, slots.heartbeat(index), now)
            if became_ready and self._was_ready:
                _log.info("%s is ready, pid %d", self._setup.name_of(index), slots.pid(index))
        if not self._was_ready and self._watch.is_ready and not self._watch.is_stopping:
            self._was_ready = True
            if self._ports_file is not None:
                self._ports_file.write(self._urls())
            _log.info("Server is ready")
            self._notifier.ready(self._status())
            streaming = self._setup.config.streaming
            if streaming is not None and not streaming.ft_group:  # a group's active server says so
                _log.info("STREAM: Streaming Server is ready")

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
            self._was_terminated = number == signal.SIGTERM
            _log.info("Initiating Shutdown...")
            self._notifier.stopping("Stopping")
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
            _log.info("Ignoring the signal, the server is about to end")
            return
        if not self._was_ready:
            self._read_anew(self._reread)
            return
        self._notifier.reloading()
        if not self._read_anew(self._reread):
            self._notifier.ready("The configuration could not be reloaded, see the log")

    def _read_anew(self, reread: Reread) -> bool:
        """Whether every process has been told to serve by what was read."""
        said = self._setup.config.warnings
        try:
            config = reread()
            lines = reload.changes(self._setup.config, config)
            ids = number_accounts(config.account_names, self._setup.account_ids)
            with OrderBody(Reload(self._generation + 1, config, ids)) as body:
                self._change_files(config)
                self._setup = dataclasses.replace(self._setup, config=config, account_ids=ids)
                self._order(body)
        except (ConfigError, BootError, OSError) as error:
            _log.error("Failed to reload server configuration: %s", error)
            return False
        except Exception:  # a fault of ours in reading is no reason to end a server that serves
            _log.exception("Failed to reload server configuration")
            return False
        for warning in config.warnings:
            if warning not in said:
                _log.warning("%s", warning)
        for line in lines:
            _log.info("%s", line)
        self._is_reloading = True
        self._take_answers()
        return True

    def _change_files(self, config: Config) -> None:
        """The files of this process as the new configuration wants them. Raises BootError, and
        has changed nothing, if one of them cannot be written."""
        old = self._setup.config
        ports_file = self._ports_file
        if config.ports_file_dir != old.ports_file_dir:
            ports_file = _ports_file(config)
        log.configure(config, "supervisor")
        try:
            if config.pid_file and config.pid_file != old.pid_file:
                write_pid_file(config.pid_file)
            if ports_file is not self._ports_file:
                if ports_file is not None and self._was_ready:
                    ports_file.write(self._urls())
                if self._ports_file is not None:
                    self._ports_file.remove()
        except BootError:
            with contextlib.suppress(BootError):
                log.configure(old, "supervisor")
            raise
        self._ports_file = ports_file

    def _order(self, body: OrderBody) -> None:
        """Gives an order to every process that lives. One that does not take it is ended: its
        replacement starts as ordered. The router gets it first: a worker that has taken a reload
        may at once speak of an account that is new."""
        self._generation += 1
        self._unanswered = set()
        router = self._setup.router_index
        for index in sorted(range(len(self._setup.orders)), key=lambda each: each != router):
            channel = self._setup.orders[index]
            pid = self._watch.pid(index)
            if not pid:
                continue
            if channel.send_body(body):
                self._unanswered.add(index)
            else:
                _log.error(
                    "%s, pid %d, takes no orders, ending it", self._setup.name_of(index), pid
                )
                self._children.signal(pid, signal.SIGABRT)

    def _take_answers(self) -> None:
        for index, channel in enumerate(self._setup.orders):
            if self._generation in channel.answers():
                self._unanswered.discard(index)
        if self._is_reloading and not self._unanswered:
            self._is_reloading = False
            self._shed()
            _log.info("Reloaded server configuration (%s)", self._setup.config.config_digest)
            if self._was_ready:
                self._notifier.ready(self._status())

    def _shed(self) -> None:
        """Every worker serves by the new configuration: what it leaves too many, goes."""
        slots, config = self._setup.slots, self._setup.config
        counts = [slots.counters(index)["connections"] for index in range(slots.count)]
        shares = reload.shares_to_shed(counts, config.max_connections)
        if not any(shares):
            return
        _log.info("Closed %d connections to fall within max_connections", sum(shares))
        for channel, count in zip(self._setup.orders, shares, strict=True):
            if count:
                with contextlib.suppress(OSError):  # no descriptor: they stay until they go
                    channel.send(Shed(count))

    # --- lame duck mode ------------------------------------------------------------------------

    def _start_lame_duck(self) -> None:
        """Accepts nobody more, and stops when the workers have let everybody go (sheet 6)."""
        if self._watch.is_stopping or self._lame_duck_until is not None:
            return
        try:
            body = OrderBody(LameDuck(self._generation + 1))
        except OSError as error:
            _log.error("Could not enter lame duck mode: %s", error)
            return
        _log.info("Entering lame duck mode, stop accepting new clients")
        self._stop_listening()
        with body:
            self._order(body)
        self._is_reloading = False
        self._watch.retire()
        config, now = self._setup.config, self._clock()
        self._close_at = now + config.lame_duck_grace_s
        # The workers end it. This is for one that does not: its clients have had their time.
        self._lame_duck_until = now + config.lame_duck_duration_s + config.heartbeat_silence_s
        within_s = self._lame_duck_until - now + 2 * limits.STOP_S_MAX
        self._notifier.stopping("Lame duck mode: clients are let go one by one", within_s)

    def _stop_listening(self) -> None:
        """For all processes at once, before a client of any is told: it may come back here and
        would be taken in by a worker that has not had its order yet."""
        setup = self._setup
        for listener in (*setup.listeners, *setup.websocket_listeners, setup.unix_listener):
            if listener is not None:
                with contextlib.suppress(OSError):
                    listener.shutdown(socket.SHUT_RDWR)
                listener.close()

    def _pass_lame_duck(self) -> None:
        if self._lame_duck_until is None or self._watch.is_stopping:
            return
        now = self._clock()
        is_empty = not self._unanswered and not self._setup.slots.totals()["connections"]
        if is_empty or now >= self._lame_duck_until:
            _log.info("Initiating Shutdown...")
            self._watch.stop(now)
        elif self._close_at is not None and now >= self._close_at:
            self._close_at = None
            _log.info("Closing existing clients")

    def _urls(self) -> dict[str, list[str]]:
        """What the ports file lists."""
        scheme = "nats" if self._setup.config.tls is None else "tls"
        urls = {"nats": listener_urls(self._setup.listeners[0], scheme)}
        if self._setup.websocket_listeners:
            websocket = self._setup.config.websocket
            scheme = "ws" if websocket is None or websocket.tls is None else "wss"
            urls["websocket"] = listener_urls(self._setup.websocket_listeners[0], scheme)
        if self._setup.cluster_listener is not None:
            urls["cluster"] = listener_urls(self._setup.cluster_listener)
        if self._setup.http_listener is not None:
            scheme = "http" if self._setup.config.http_port else "https"
            urls["monitoring"] = listener_urls(self._setup.http_listener, scheme)
        return urls

    def _handle_end(self, ended: Ended) -> None:
        was_stopping = self._watch.is_stopping
        is_waiting = ended.code == ExitCode.STORE_UNAVAILABLE
        ending = self._watch.ended(ended.pid, self._clock(), is_waiting=is_waiting)
        if ending is None:
            return
        self._setup.slots.clear(ending.index)
        self._setup.quotas.clear(ending.index)
        self._unanswered.discard(ending.index)
        self._ring_all()
        if was_stopping or (self._watch.is_retired and not ending.was_ready):
            return
        if self._must_give_up(ending, ended):
            return
        self._end_pool(ending)
        phase = "" if ending.was_ready else " while booting"
        name = self._setup.name_of(ending.index)
        if ending.restart_s is None:
            _log.error("%s, pid %d, ended%s: %s", name, ended.pid, phase, ended.text)
            if self._watch.failure:
                _log.critical("%s, giving up", self._watch.failure)
        else:
            _log.error(
                "%s, pid %d, ended%s: %s, replacing it in %.2fs",
                name,
                ended.pid,
                phase,
                ended.text,
                ending.restart_s,
            )

    def _end_pool(self, ending: Ending) -> None:
        """Ends the rest of a streaming pool if it must not go on without one that has ended.

        A store in memory that is lost in part is lost as a whole, as the original's is: clients
        learn that they have to begin anew, and do not wait on what half of the pool forgot. The
        lead of a fault-tolerance group held the lock, maybe before the host was ready: another
        server may have it now.
        """
        streaming = self._setup.config.streaming
        if streaming is None or ending.index not in self._setup.streaming_slots:
            return
        had_lock = bool(streaming.ft_group) and ending.index == self._setup.streaming_first
        is_lost = streaming.store == "MEMORY" and ending.was_ready
        if not had_lock and not is_lost:
            return
        for index in self._setup.streaming_slots:
            if self._watch.pid(index):
                self._children.signal(self._watch.pid(index), signal.SIGKILL)

    def _must_give_up(self, ending: Ending, ended: Ended) -> bool:
        """Whether a streaming worker could not begin for a reason that the operator has to change,
        which it has said, before the server was ever ready."""
        if (
            ending.index not in self._setup.streaming_slots
            or ending.was_ready
            or ended.code != ExitCode.CONFIGURATION
            or self._was_ready
        ):
            return False
        self._is_refused = True
        self._watch.give_up(f"{self._setup.name_of(ending.index)} cannot serve", self._clock())
        return True

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
            name = self._setup.name_of(order.index)
            _log.error("%s, pid %d: %s", name, order.pid, order.reason)
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
                "Could not fork %s: %s, trying again in %.2fs",
                self._setup.name_of(index).lower(),
                error.strerror,
                wait_s,
            )
            return
        slots.set_pid(index, pid)
        self._watch.started(index, pid, self._clock())
