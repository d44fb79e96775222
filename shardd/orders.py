"""Orders from the supervisor to its workers, and their answers.

One pair of sockets per worker slot, made before the first fork and kept by the supervisor, so that
a worker's end outlives the worker. A message keeps its boundaries; an order's body, which may be a
large configuration, travels beside it as a descriptor of memory (memfd). Bodies are pickled: both
ends are one program, forked from one process, and nobody else holds these sockets.
"""

import contextlib
import os
import pickle
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from shardd.config.core import Config
from shardd.errors import InternalError

_MESSAGE_BYTES_MAX: Final = 4096
_BODY: Final = b"order"


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


@dataclass(frozen=True, slots=True)
class Answer:
    """A worker has carried out the order of this generation."""

    generation: int


Order = Reload | LameDuck | Shed


class OrderReceiver:
    """A worker's end."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def fileno(self) -> int:
        """Readable when an order waits."""
        return self._end.fileno()

    def take(self) -> list[Order]:
        """The orders that have come. Raises InternalError for what is none."""
        orders: list[Order] = []
        with contextlib.suppress(BlockingIOError):
            while True:
                message, descriptors, _, _ = socket.recv_fds(self._end, _MESSAGE_BYTES_MAX, 1)
                if not message:
                    break
                orders.append(_read_body(message, descriptors))
        return orders

    def answer(self, generation: int) -> None:
        """Tell the supervisor that an order was carried out."""
        with contextlib.suppress(BlockingIOError):  # it will give the worker up in its time
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
        """Give an order. False: the worker has not taken the ones before."""
        descriptor = os.memfd_create("order", os.MFD_CLOEXEC)
        try:
            with open(descriptor, "wb", closefd=False) as body:
                pickle.dump(order, body, pickle.HIGHEST_PROTOCOL)
            socket.send_fds(self._own, [_BODY], [descriptor])
        except BlockingIOError:
            return False
        finally:
            os.close(descriptor)
        return True

    def answers(self) -> list[Answer]:
        """What the worker has answered since."""
        answers = []
        with contextlib.suppress(BlockingIOError):
            while message := self._own.recv(_MESSAGE_BYTES_MAX):
                answers.append(Answer(int.from_bytes(message, "little")))
        return answers

    def discard(self) -> None:
        """Forget what a worker that has ended did not take, and what it said last."""
        self.answers()
        with contextlib.suppress(BlockingIOError):
            while True:
                message, descriptors, _, _ = socket.recv_fds(self._worker, _MESSAGE_BYTES_MAX, 1)
                for descriptor in descriptors:
                    os.close(descriptor)
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


def _read_body(message: bytes, descriptors: list[int]) -> Order:
    if message != _BODY or len(descriptors) != 1:
        for descriptor in descriptors:
            os.close(descriptor)
        raise InternalError("a message of the supervisor is not an order")
    with open(descriptors[0], "rb") as body:
        body.seek(0)
        order = pickle.load(body)
    if not isinstance(order, Order):
        raise InternalError("a message of the supervisor is not an order")
    return order
