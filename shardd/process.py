"""Processes as the kernel gives them: fork, parent death, cores, reaping, a queue of signals.

No policy lives here (that is `watch`). A child never returns into its parent's code: it runs its
body and leaves by `os._exit`. It cannot outlive its parent either, because the kernel kills it when
the parent dies, however that dies.
"""

import contextlib
import ctypes
import faulthandler
import gc
import io
import logging
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, NoReturn

_log = logging.getLogger("shardd.process")

# What a child returns when its body raised (precedent: EX_SOFTWARE of sysexits.h).
EXCEPTION_EXIT: Final = 70

_PR_SET_PDEATHSIG: Final = 1
_libc: Final = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Ended:
    """A reaped child. A negative code is the signal that killed it."""

    pid: int
    code: int

    @property
    def text(self) -> str:
        """How it ended, in words."""
        if self.code >= 0:
            return f"exit code {self.code}"
        try:
            return signal.Signals(-self.code).name
        except ValueError:
            return f"signal {-self.code}"


class SignalQueue:
    """Signals as a queue that can be polled; the handlers themselves do nothing.

    The interpreter writes each signal's number into a pipe as it arrives, so none is handled in
    the middle of something else. Owned by the main thread of the process that made it.
    """

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._numbers = frozenset(numbers)
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_wakeup = signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        self._old_handlers = {
            number: signal.signal(number, _queue_only) for number in self._numbers
        }

    def fileno(self) -> int:
        """Readable when a signal waits."""
        return self._read_fd

    def take(self) -> list[signal.Signals]:
        """The signals that arrived since the last call, oldest first."""
        try:
            data = os.read(self._read_fd, 4096)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in data if number in self._numbers]

    def close(self) -> None:
        """Puts the former handlers back."""
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_wakeup)
        self._close_pipe()

    def leave_in_child(self) -> None:
        """In a forked child: default handlers again, and nothing written to the parent's pipe.

        What a terminal or an operator sends to the whole group is the supervisor's business. A
        body that serves one of the ignored signals installs its handler itself.
        """
        signal.set_wakeup_fd(-1)
        for number in self._numbers:
            signal.signal(number, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        self._close_pipe()

    def _close_pipe(self) -> None:
        os.close(self._read_fd)
        os.close(self._write_fd)


class Children:
    """Forks, signals and reaps this process's children. Single-threaded parents only.

    `body` is what a child runs with its index; `release` is called in the child first, to close
    what belongs to the parent alone. `cores`, if given, pins child i to the i-th of them.
    `name_of` says what a child is called in the log.
    """

    def __init__(
        self,
        body: Callable[[int], int],
        release: Callable[[int], None],
        cores: tuple[int, ...] = (),
        name_of: Callable[[int], str] = "Worker {}".format,
    ) -> None:
        self._body = body
        self._release = release
        self._cores = cores
        self._name_of = name_of

    def start(self, index: int) -> int:
        """Forks child `index` and returns its pid. OSError when the kernel has no room for it."""
        parent = os.getpid()
        # A signal between the fork and the child's own handlers would run the parent's.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            pid = os.fork()
            if pid == 0:
                self._run_child(index, parent, mask)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return pid

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Signals a child that has not been reaped; a zombie does not mind."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def reap(self) -> list[Ended]:
        """Every child that has ended since the last call, strangers included."""
        ended: list[Ended] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            ended.append(Ended(pid, os.waitstatus_to_exitcode(status)))

    def _run_child(self, index: int, parent: int, mask: Iterable[int]) -> NoReturn:
        """The whole life of a child; whatever happens, it ends here."""
        code = EXCEPTION_EXIT
        try:
            die_with_parent(parent)
            self._release(index)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            _dump_stack_on_fault()
            if self._cores:
                pin(self._cores[index % len(self._cores)])
            code = self._body(index)
        except SystemExit as exit_request:
            code = exit_request.code if isinstance(exit_request.code, int) else EXCEPTION_EXIT
        except BaseException:
            _log.exception("%s failed", self._name_of(index))
        finally:
            for handler in logging.getLogger().handlers:
                _flush(handler)
            _flush(sys.stdout)
            _flush(sys.stderr)
            os._exit(code & 0xFF)


def usable_cores() -> tuple[int, ...]:
    """The cores this process may run on, lowest first."""
    return tuple(sorted(os.sched_getaffinity(0)))


def pin(core: int) -> None:
    """Keeps this process on one core. A core that has gone meanwhile is no reason to fail."""
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:
        _log.warning("Could not pin to core %d: %s", core, error.strerror)


def die_with_parent(parent: int) -> None:
    """Asks the kernel to kill this process when its parent dies; ends it if that is the past."""
    if _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    if os.getppid() != parent:
        os._exit(EXCEPTION_EXIT)


def raise_file_limit() -> int:
    """Raises the limit of open files to the most that is allowed without privilege; returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            return soft
    return hard


def freeze_heap() -> None:
    """Moves every object out of the collector's sight, so that children keep sharing the pages.

    Only what is young is looked through first: all of it takes 10 ms, and finds next to nothing in
    a process that has done no more than to import and to read its configuration.
    """
    gc.collect(1)
    gc.freeze()


def _queue_only(number: int, frame: object) -> None:
    """A handler has to exist for the interpreter to write the signal's number into the pipe."""


def _dump_stack_on_fault() -> None:
    """A crash or an abort writes the Python stack to stderr, where there is one."""
    with contextlib.suppress(AttributeError, ValueError, RuntimeError, io.UnsupportedOperation):
        faulthandler.enable()


def _flush(stream: io.TextIOBase | object) -> None:
    flush = getattr(stream, "flush", None)
    if flush is not None:
        with contextlib.suppress(OSError, ValueError):
            flush()
