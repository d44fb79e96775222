"""Orders from the supervisor to its workers, and their answers.

One pair of sockets per worker slot, made before the first fork and kept by the supervisor, so that
a worker's end outlives the worker. A message keeps its boundaries; an order's body, which may be a
large configuration, travels beside it as a descriptor of memory (memfd) that cannot be changed any
more, written once for all workers. Bodies are pickled: both ends are one program, forked from one
process, and nobody else holds these sockets.
"""

import contextlib
import fcntl
import os
import pickle
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from shardd.config.core import Config
from shardd.errors import InternalError

_MESSAGE_BYTES_MAX: Final = 4096
_BODY: Final = b"order"
_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True)
class Reload:
    """Serve by this configuration from now on."""

    generation: int
    config: Config
    account_ids: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class LameDuck:
    """Accept nobody more and let everybody go, one by one."""

    generation: int


@dataclass(frozen=True, slots=True)
class Shed:
    """Close so many connections, chosen at random: a reload has lowered their limit."""

    count: int


Order = Reload | LameDuck | Shed


class OrderBody:
    """One order, pickled, in memory that every worker can be handed. A context manager."""

    def __init__(self, order: Order) -> None:
        """Raises OSError when there is no descriptor or no memory left for it."""
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self.descriptor = os.memfd_create("order", flags)
        try:
            with open(self.descriptor, "wb", closefd=False) as body:
                pickle.dump(order, body, pickle.HIGHEST_PROTOCOL)
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The workers have descriptors of their own."""
        os.close(self.descriptor)


class OrderReceiver:
    """A worker's end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def fileno(self) -> int:
        """Readable when an order waits."""
        return self._end.fileno()

    def take(self) -> list[Order]:
        """The orders that have come, oldest first; never waits.

        Raises:
            InternalError: something came that is no order.
        """
        orders: list[Order] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                message, descriptors = _receive(self._end)
                if not message:
                    break
                orders.append(_read_order(message, descriptors))
        return orders

    def answer(self, generation: int) -> None:
        """Tells the supervisor that the order of this generation was carried out."""
        with contextlib.suppress(BlockingIOError):  # it reads none: it will give the worker up
            self._end.send(generation.to_bytes(8, "little"))


class OrderChannel:
    """The supervisor's side of one worker slot."""

    def __init__(self) -> None:
        kind = socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK
        self._own, self._worker = socket.socketpair(socket.AF_UNIX, kind)

    def fileno(self) -> int:
        """Readable when an answer waits."""
        return self._own.fileno()

    def receiver(self) -> OrderReceiver:
        """The worker's end, for the process that is this worker."""
        return OrderReceiver(self._worker)

    def send(self, order: Order) -> bool:
        """Gives an order to this worker alone. False: it has not taken the ones before."""
        with OrderBody(order) as body:
            return self.send_body(body)

    def send_body(self, body: OrderBody) -> bool:
        """Gives an order that others are given too. False: it has not taken the ones before."""
        try:
            socket.send_fds(self._own, [_BODY], [body.descriptor])
        except OSError:  # its queue is full, or the kernel's count of descriptors under way
            return False
        return True

    def answers(self) -> list[int]:
        """The generations of the orders that the worker has carried out since the last call."""
        generations = []
        with contextlib.suppress(BlockingIOError):
            while message := self._own.recv(_MESSAGE_BYTES_MAX):
                generations.append(int.from_bytes(message, "little"))
        return generations

    def discard(self) -> None:
        """Forgets what a worker that has ended did not take, and what it said last."""
        self.answers()
        with contextlib.suppress(BlockingIOError):
            while True:
                message, descriptors = _receive(self._worker)
                _close_all(descriptors)
                if not message:
                    break

    def leave_in_child(self, is_own: bool) -> None:
        """In a worker: lets go of the supervisor's end, and of other workers' ends."""
        self._own.close()
        if not is_own:
            self._worker.close()

    def close(self) -> None:
        """At the end of the supervisor."""
        self._own.close()
        self._worker.close()


def _receive(end: socket.socket) -> tuple[bytes, list[int]]:
    """One message and what came beside it. Raises BlockingIOError when there is none."""
    flags = socket.MSG_CMSG_CLOEXEC
    message, descriptors, _, _ = socket.recv_fds(end, _MESSAGE_BYTES_MAX, 1, flags)
    return message, descriptors


def _read_order(message: bytes, descriptors: list[int]) -> Order:
    try:
        if message != _BODY or len(descriptors) != 1:
            raise InternalError("a message of the supervisor is not an order")
        order = _unpickle(descriptors[0])
    finally:
        _close_all(descriptors)
    if not isinstance(order, Order):
        raise InternalError(f"the supervisor ordered something unknown: {type(order).__name__}")
    return order


def _unpickle(descriptor: int) -> object:
    """What a body holds. All workers read the same open file, so its position is nobody's."""
    size = os.fstat(descriptor).st_size
    try:
        return pickle.loads(os.pread(descriptor, size, 0))
    except Exception as error:  # pickle may raise nearly anything
        raise InternalError(f"an order of the supervisor cannot be read: {error!r}") from error


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
