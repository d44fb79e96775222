"""Control messages between the processes of a host: ZeroMQ over ipc, msgpack inside.

Every process binds one PULL socket under a name that holds its slot and incarnation, so that what
was meant for a process that died never reaches its successor, and connects one PUSH socket to each
peer. The directory of the sockets belongs to the server's user alone. Order from one process to
another is kept; that is what interest sequences rest on.

Nothing here waits: sending never blocks, because the queue to a peer is bounded by what may be
outstanding (oversize messages) and by time (a peer that does not read is killed by the
supervisor), not by a high-water mark that would have to drop or to block.
"""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any, Final

import msgpack
import zmq

# Messages taken in one turn of the event loop, and for how long, before clients have theirs.
_RECEIVED_MAX: Final = 256
_TURN_S: Final = 0.010
# A peer's name appears when it joins; ZeroMQ looks for it this often.
_RECONNECT_MS: Final = 5

Receiver = Callable[[tuple[Any, ...]], None]


class Control:
    """The control sockets of one process. Made in the child, used by its event loop only.

    Args:
        directory: where the ipc sockets live.
        slot: the own slot number.
        incarnation: which process of that slot this is.
        loop: the event loop.
    """

    def __init__(
        self, directory: str, slot: int, incarnation: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self._directory = directory
        self._loop = loop
        self._context = zmq.Context(io_threads=1)
        self._pull = self._context.socket(zmq.PULL)
        self._pull.setsockopt(zmq.RCVHWM, 0)
        self._pull.setsockopt(zmq.LINGER, 0)
        self._path = self._name(slot, incarnation)
        self._pull.bind(f"ipc://{self._path}")
        self._fd = int(self._pull.getsockopt(zmq.FD))
        self._pushes: dict[int, zmq.Socket[bytes]] = {}
        self._receive: Receiver | None = None
        self._after: Callable[[], None] | None = None
        self._stall: Callable[[int, int], None] | None = None
        self._news: Callable[[tuple[Any, ...]], None] | None = None

    def start(
        self,
        receive: Receiver,
        after: Callable[[], None],
        stall: Callable[[int, int], None],
        news: Callable[[tuple[Any, ...]], None] | None = None,
    ) -> None:
        """Hand every message to `receive`, and call `after` once behind those that came together.

        `stall` is told a client id and for how many milliseconds not to read from that client,
        `news` what another process has made known to all.
        """
        self._news = news
        self._receive = receive
        self._after = after
        self._stall = stall
        self._loop.add_reader(self._fd, self._on_readable)
        # The descriptor tells of changes only: what came before is asked for.
        self._loop.call_soon(self._on_readable)

    def close(self) -> None:
        """Send what is queued, if it goes at once, and end."""
        if self._receive is not None:
            self._loop.remove_reader(self._fd)
            self._receive = None
        for push in self._pushes.values():
            push.close(linger=0)
        self._pushes.clear()
        self._pull.close(linger=0)
        self._context.term()
        if os.path.exists(self._path):
            os.unlink(self._path)

    # --- what the mesh asks for ----------------------------------------------------------------

    def connect(self, slot: int, incarnation: int) -> None:
        """Open the way to a peer."""
        self.disconnect(slot)
        push = self._context.socket(zmq.PUSH)
        push.setsockopt(zmq.SNDHWM, 0)
        push.setsockopt(zmq.LINGER, 0)
        push.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
        push.connect(f"ipc://{self._name(slot, incarnation)}")
        self._pushes[slot] = push

    def disconnect(self, slot: int) -> None:
        """Close the way to a peer that is gone."""
        push = self._pushes.pop(slot, None)
        if push is not None:
            push.close(linger=0)

    def send(self, processes: int, message: tuple[Any, ...]) -> None:
        """Send one message to every process whose bit is set."""
        data = msgpack.packb(message, use_bin_type=True)
        for slot, push in self._pushes.items():
            if processes >> slot & 1:
                push.send(data, zmq.NOBLOCK, copy=True)

    def later(self, callback: Callable[[], None]) -> None:
        """Call back when others have had their turn."""
        self._loop.call_soon(callback)

    def stall(self, client: int, milliseconds: int) -> None:
        """A peer asks to hold a client of this process back."""
        if self._stall is not None:
            self._stall(client, milliseconds)

    def news(self, content: tuple[Any, ...]) -> None:
        """A peer makes something known."""
        if self._news is not None:
            self._news(content)

    # -------------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        if self._receive is None or self._after is None:
            return
        until = time.monotonic() + _TURN_S
        for _ in range(_RECEIVED_MAX):
            try:
                data = self._pull.recv(zmq.NOBLOCK)
            except zmq.Again:
                break
            self._receive(tuple(msgpack.unpackb(data, use_list=False, raw=False)))
            if time.monotonic() >= until:
                self._loop.call_soon(self._on_readable)
                break
        else:
            self._loop.call_soon(self._on_readable)
        self._after()

    def _name(self, slot: int, incarnation: int) -> str:
        return os.path.join(self._directory, f"{slot}.{incarnation}")
