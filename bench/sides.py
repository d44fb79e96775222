"""The two processes that make the load: one publishes, one subscribes.

A side lives for the whole run. The parent sends it jobs, functions of a module with their
arguments, over a pipe, one at a time; a side keeps its connections between jobs. Both sides share
one page with each other, see the generator.
"""

import contextlib
import ctypes
import multiprocessing
import signal
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from bench import callers, encrypted, generator
from bench.frames import Subscription
from bench.placement import Address, Place, ServerRefusal, await_pong, flush, open_placed, subscribe

P = ParamSpec("P")
R = TypeVar("R")
First = TypeVar("First")
Second = TypeVar("Second")


class SideFailure(Exception):
    """A job failed in its process. `is_echo`: only because the other side had failed before."""

    def __init__(self, text: str, *, is_echo: bool) -> None:
        """Keep what the child said of its exception."""
        super().__init__(text)
        self.is_echo = is_echo


@dataclass(slots=True)
class Side:
    """What one of the two processes holds between jobs."""

    shared: memoryview
    connections: list[socket.socket] = field(default_factory=list)

    @property
    def fds(self) -> list[int]:
        """The connections as the generator takes them."""
        return [connection.fileno() for connection in self.connections]

    @property
    def encrypted(self) -> list[ssl.SSLSocket]:
        """The connections that are TLS: all of them, or none."""
        return [each for each in self.connections if isinstance(each, ssl.SSLSocket)]


@dataclass(frozen=True, slots=True)
class Answer(Generic[R]):
    """A job's result and what it cost this process."""

    value: R
    cpu_s: float


@dataclass(frozen=True, slots=True)
class _Failed:
    text: str
    is_echo: bool


class Child:
    """The parent's handle of one side; it belongs to the parent's only thread."""

    def __init__(self, name: str, shared: Any) -> None:
        """Start the process. `shared` is the page that both sides map."""
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, shared), daemon=True)
        self._process.start()
        theirs.close()

    def submit(
        self, job: Callable[Concatenate[Side, P], R], *args: P.args, **kwargs: P.kwargs
    ) -> "Pending[R]":
        """Have `job` run there; the next job may come when its answer was taken."""
        self._pipe.send((job, args, kwargs))
        return Pending(self.name, self._pipe)

    def call(self, job: Callable[Concatenate[Side, P], R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run `job` there and wait for it."""
        return self.submit(job, *args, **kwargs).take().value

    def stop(self) -> None:
        """End the process."""
        self._pipe.close()
        self._process.join(1.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class Pending(Generic[R]):
    """A job under way."""

    def __init__(self, name: str, pipe: "Connection[Any, Any]") -> None:
        """Keep where the answer will come from."""
        self._name = name
        self._pipe = pipe

    def take(self) -> Answer[R]:
        """Wait for the answer. Every job has its own bound on silence, so this one has none."""
        try:
            answer: Answer[R] | _Failed = self._pipe.recv()
        except EOFError:
            raise SideFailure(f"{self._name}: the process died", is_echo=False) from None
        if isinstance(answer, _Failed):
            raise SideFailure(f"{self._name}: {answer.text}", is_echo=answer.is_echo)
        return answer


def make_shared() -> Any:
    """The page that both sides map; it can be handed to a process that is being started."""
    context = multiprocessing.get_context("spawn")
    return context.RawArray(ctypes.c_ubyte, generator.SHARED_BYTES)


def take_both(
    first: Pending[First], second: Pending[Second]
) -> tuple[Answer[First], Answer[Second]]:
    """Wait for both sides; when both failed, raise the failure that came first."""
    failures: list[SideFailure] = []
    answers: list[Answer[Any]] = []
    for pending in (first, second):
        try:
            answers.append(pending.take())
        except SideFailure as failure:
            failures.append(failure)
    if failures:
        raise min(failures, key=lambda failure: failure.is_echo)
    return answers[0], answers[1]


def _serve(pipe: "Connection[Any, Any]", shared: Any) -> None:
    # The parent answers the terminal's signal, and ends this process by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    side = Side(memoryview(shared).cast("B"))
    while True:
        try:
            job, args, kwargs = pipe.recv()
        except EOFError:
            return
        started = time.process_time()
        answer: Answer[Any] | _Failed
        try:
            value = job(side, *args, **kwargs)
            answer = Answer(value, time.process_time() - started)
        except Exception as error:
            generator.abort(side.shared)
            text = f"{type(error).__name__}: {error}"
            answer = _Failed(text, is_echo=isinstance(error, InterruptedError))
        pipe.send(answer)


# --- jobs -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Publishing:
    """What the publishing side did."""

    start_ns: int
    end_ns: int  # the PONG after the last message has come
    blocks: list[int]


@dataclass(frozen=True, slots=True)
class Counting:
    """What the subscribing side received."""

    end_ns: int
    received: list[int]
    first_headers: list[bytes]
    last_headers: list[bytes]


@dataclass(frozen=True, slots=True)
class Timing:
    """Request/reply round trips."""

    start_ns: int
    end_ns: int
    answers: list[int]
    samples_ns: bytes


def reset_shared(side: Side) -> None:
    """Make the page ready for the next run."""
    generator.reset(side.shared)


def open_connections(
    side: Side, address: Address, place: Place, subscriptions: Sequence[Sequence[Subscription]]
) -> None:
    """Open one connection for each element, and subscribe to what it says."""
    for wanted in subscriptions:
        connection = open_placed(address, place)
        side.connections.append(connection)
        if wanted:
            subscribe(connection, wanted)


def close_connections(side: Side) -> None:
    """Close all connections, however far they are."""
    while side.connections:
        side.connections.pop().close()


def publish(
    side: Side,
    blocks: Sequence[bytes],
    outputs: Sequence[int],
    seconds: float,
    blocks_max: int,
    credit_bytes: int,
    patience_s: float,
) -> Publishing:
    """Publish on all connections, and wait until the server has read all of it."""
    try:
        if encrypted_ones := side.encrypted:
            done = encrypted.publish(
                encrypted_ones, blocks, outputs, side.shared, seconds, blocks_max, credit_bytes,
                patience_s,
            )  # fmt: skip
        else:
            done = generator.publish(
                side.fds, blocks, outputs, side.shared, seconds, blocks_max, credit_bytes,
                patience_s,
            )  # fmt: skip
        for connection in side.connections:
            connection.sendall(b"PING\r\n")
        for connection in side.connections:
            await_pong(connection)
    except OSError as error:
        raise ServerRefusal(f"{error}; {_last_words(side)}") from error
    return Publishing(done.start_ns, time.monotonic_ns(), done.blocks)


def count(side: Side, header_len: int, body: bytes, patience_s: float) -> Counting:
    """Count what arrives until all has; then nothing more may come."""
    if encrypted_ones := side.encrypted:
        done = encrypted.count(encrypted_ones, header_len, body, side.shared, patience_s)
    else:
        done = generator.count(side.fds, header_len, body, side.shared, patience_s)
    for connection in side.connections:
        flush(connection)
    return Counting(done.end_ns, done.received, done.first_headers, done.last_headers)


def request(
    side: Side, requests: Sequence[bytes], answer_len: int, seconds: float, patience_s: float
) -> Timing:
    """Run closed request/reply loops on all connections."""
    done = callers.request(side.fds, requests, answer_len, side.shared, seconds, patience_s)
    return Timing(done.start_ns, done.end_ns, done.answers, done.samples_ns)


def respond(side: Side, answers: Sequence[bytes], request_len: int, patience_s: float) -> list[int]:
    """Answer the other side's requests."""
    return callers.respond(side.fds, answers, request_len, side.shared, patience_s)


def _last_words(side: Side) -> str:
    """What the server said before it closed a connection."""
    for index, connection in enumerate(side.connections):
        with contextlib.suppress(OSError):
            words = connection.recv(4096, socket.MSG_DONTWAIT)
            if words:
                return f"connection {index} had been told {words[:200]!r}"
    return "the server said nothing"
