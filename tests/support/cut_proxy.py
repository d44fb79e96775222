"""A TCP proxy in a thread that loses connections at a chosen moment."""

import contextlib
import selectors
import socket
import threading
from typing import Final

_PIECE: Final = 65_536


class CutProxy:
    """Passes bytes on between clients and one port of this host.

    Attributes:
        cut_behind: once a client has sent these bytes they are passed on, and what the server then
            says is not: all connections are lost and new ones are refused until `mend`.
        was_cut: set when that has happened.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.cut_behind = b""
        self.was_cut = threading.Event()
        self._is_open = True
        self._is_ending = False
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._peers: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def mend(self) -> None:
        """Connections can be made again."""
        self.was_cut.clear()
        self._is_open = True

    def cut(self) -> None:
        """Loses everything, and refuses what comes."""
        with self._lock:
            self._is_open = False
            self._cut()

    def close(self) -> None:
        """Ends it."""
        self._is_ending = True
        self._thread.join()
        self._cut()
        self._selector.close()
        self._listener.close()

    def _run(self) -> None:
        while not self._is_ending:
            for key, _ in self._selector.select(0.02):
                with self._lock:
                    side = key.fileobj
                    assert isinstance(side, socket.socket)
                    if side is self._listener:
                        self._accept()
                    elif side in self._peers:
                        self._pass_on(side)

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if not self._is_open:
            client.close()
            return
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            client.close()
            return
        self._clients.add(client)
        for one, other in ((client, server), (server, client)):
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _pass_on(self, side: socket.socket) -> None:
        other = self._peers[side]
        try:
            data = side.recv(_PIECE)
            if data:
                other.sendall(data)
        except OSError:
            data = b""
        if not data:
            self._forget(side, other)
        elif self.cut_behind and side in self._clients and self.cut_behind in data:
            self.cut_behind = b""
            self._is_open = False
            # The server does what it was told and answers; nobody hears of it.
            with contextlib.suppress(OSError):
                other.recv(1)
            self._cut()
            self.was_cut.set()

    def _forget(self, *sides: socket.socket) -> None:
        for side in sides:
            if self._peers.pop(side, None) is not None:
                self._selector.unregister(side)
            self._clients.discard(side)
            side.close()

    def _cut(self) -> None:
        self._forget(*self._peers)
