"""A NATS client that knows bytes only: it sends exactly what it is told and reads the same way.

``expect`` is the heart: the next bytes from the server must be these and no others. What must *not*
come is asserted without waiting: a PING, whose PONG must be the very next thing to arrive.

The server's own PINGs come at times that no test can foresee, so they are answered and taken out
of the stream, unless the client is made with ``answers_pings=False``.
"""

import contextlib
import json
import socket
import ssl
from types import TracebackType
from typing import Any, Final, Self

from tests.support.waiting import WAIT_S

_READ_BYTES: Final = 65_536
_FINISH_S: Final = 1.0


class WireClient:
    """One plain TCP connection to a server; ``info`` is its first line, parsed."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        receive_bytes: int | None = None,
        answers_pings: bool = True,
        timeout_s: float = WAIT_S,
        tls: ssl.SSLContext | None = None,
        handshake_first: bool = False,
    ) -> None:
        self._received = bytearray()
        self._line = bytearray()  # the beginning of a line that may turn out to be a PING
        self._payload_left = 0  # of a message whose control line has gone by
        self._answers_pings = answers_pings
        self._is_eof = False
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            if receive_bytes is not None:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.socket.settimeout(timeout_s)
            self.socket.connect((host, port))
            self.local_port: int = self.socket.getsockname()[1]
            if tls is not None and handshake_first:
                self.socket = tls.wrap_socket(self.socket)
            self.info_line = self.expect_line()
            self.info = parse_info(self.info_line)
            if tls is not None and not handshake_first:
                self.socket = tls.wrap_socket(self.socket)
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; harmless when it is closed already."""
        self.socket.close()

    def finish(self) -> None:
        """Say that nothing more comes, let the server close, and close.

        After a plain close the server may still deliver to the dead connection for a moment, and
        in a queue group that message would be lost to the next test.
        """
        with contextlib.suppress(OSError):  # closed already, reset, or full of unread messages
            self.socket.settimeout(_FINISH_S)
            self.socket.shutdown(socket.SHUT_WR)
            while self.socket.recv(_READ_BYTES):
                pass
        self.close()

    # --- sending ------------------------------------------------------------------------------

    def send(self, *parts: bytes) -> None:
        """Send these bytes, all of them, and nothing else."""
        self.socket.sendall(b"".join(parts))

    def send_split(self, data: bytes) -> None:
        """Send every byte in a segment of its own."""
        for position in range(len(data)):
            self.socket.sendall(data[position : position + 1])

    # --- receiving ----------------------------------------------------------------------------

    def read(self, count: int) -> bytes:
        """The next ``count`` bytes, or what there was before the connection ended."""
        while len(self._received) < count and self._receive():
            pass
        data = bytes(self._received[:count])
        del self._received[:count]
        return data

    def expect(self, *parts: bytes) -> None:
        """The next bytes are exactly these."""
        wanted = b"".join(parts)
        arrived = self.read(len(wanted))
        if arrived != wanted:
            raise AssertionError(_describe(wanted, arrived, bytes(self._received[:200])))

    def expect_line(self) -> bytes:
        """The next line, with its CR LF."""
        return self.read_until(b"\r\n")

    def read_until(self, end: bytes) -> bytes:
        """Everything up to and including ``end``."""
        start = 0
        while True:
            found = self._received.find(end, start)
            if found >= 0:
                return self.read(found + len(end))
            start = max(0, len(self._received) - len(end))
            if not self._receive():
                raise AssertionError(f"closed before {end!r}, after {self._received[-500:]!r}")

    def read_to_end(self) -> bytes:
        """Everything until the server closes the connection."""
        while self._receive():
            pass
        return self.read(len(self._received))

    def expect_closed(self) -> None:
        """The server closed the connection and sent nothing before that."""
        rest = self.read_to_end()
        if rest:
            raise AssertionError(f"expected the end of the connection, got {rest[:500]!r}")

    def expect_silence(self) -> None:
        """Nothing is under way: the PONG for a PING sent now is the next to arrive."""
        self.send(b"PING\r\n")
        self.expect(b"PONG\r\n")

    # --- the protocol's own small steps -------------------------------------------------------

    def connect(self, **options: Any) -> Self:
        """CONNECT, quiet unless told otherwise, and a PING that shows it was accepted."""
        quiet: dict[str, Any] = {"verbose": False, "pedantic": False}
        text = json.dumps(quiet | options, separators=(",", ":")).encode()
        self.send(b"CONNECT ", text, b"\r\nPING\r\n")
        self.expect(b"+OK\r\n" if options.get("verbose") else b"", b"PONG\r\n")
        if options.get("protocol"):
            self.second_info = parse_info(self.expect_line())
        return self

    def ping(self) -> None:
        """What was sent so far has been handled; nothing else was sent back."""
        self.expect_silence()

    def subscribe(self, subject: bytes, sid: bytes, queue: bytes = b"") -> None:
        """SUB, and wait until it is visible to every publisher."""
        self.send(b"SUB ", subject, b" " + queue if queue else b"", b" ", sid, b"\r\n")
        self.ping()

    def publish(self, subject: bytes, payload: bytes, reply: bytes = b"") -> None:
        """PUB, without waiting for anything."""
        reply = b" " + reply if reply else b""
        self.send(b"PUB ", subject, reply, b" %d\r\n" % len(payload), payload, b"\r\n")

    def expect_msg(self, subject: bytes, sid: bytes, payload: bytes, reply: bytes = b"") -> None:
        """The next to arrive is this message."""
        reply = b" " + reply if reply else b""
        size = b" %d\r\n" % len(payload)
        self.expect(b"MSG ", subject, b" ", sid, reply, size, payload, b"\r\n")

    def expect_error(self, text: bytes) -> None:
        """The next to arrive is this error, and the connection stays open."""
        self.expect(b"-ERR '", text, b"'\r\n")
        self.expect_silence()

    def expect_fatal(self, text: bytes) -> None:
        """The last to arrive is this error."""
        self.expect(b"-ERR '", text, b"'\r\n")
        self.expect_closed()

    def _receive(self) -> bool:
        if self._is_eof:
            return False
        try:
            data = self.socket.recv(_READ_BYTES)
        except ConnectionResetError:
            data = b""
        except TimeoutError:
            text = bytes((self._received + self._line)[-300:])
            raise AssertionError(f"the server sent nothing more after {text!r}") from None
        self._is_eof = not data
        if self._answers_pings:
            self._take_pings_out(data)
        else:
            self._received += data
        return not self._is_eof

    def _take_pings_out(self, data: bytes) -> None:
        """Move bytes to ``_received``, but answer each line that is a PING instead."""
        position = 0
        while position < len(data):
            if self._payload_left:
                part = data[position : position + self._payload_left]
                self._received += part
                self._payload_left -= len(part)
                position += len(part)
                continue
            end = data.find(b"\n", position) + 1 or len(data)
            self._line += data[position:end]
            position = end
            if self._line.endswith(b"\n"):
                self._take_line()
        if self._is_eof:
            self._received += self._line
            self._line.clear()

    def _take_line(self) -> None:
        line = bytes(self._line)
        self._line.clear()
        if line == b"PING\r\n":
            with contextlib.suppress(OSError):
                self.socket.sendall(b"PONG\r\n")
            return
        self._received += line
        if line.startswith((b"MSG ", b"HMSG ")):
            self._payload_left = int(line.split()[-1]) + 2


def _describe(wanted: bytes, arrived: bytes, more: bytes) -> str:
    """Where two byte strings part, without printing a megabyte."""
    pairs = enumerate(zip(wanted, arrived, strict=False))
    same = next((i for i, (a, b) in pairs if a != b), min(len(wanted), len(arrived)))
    start = max(0, same - 100)
    where = f" at byte {start}" if start else ""
    expected, got = wanted[start : same + 300], arrived[start : same + 300]
    return f"expected{where} {expected!r}, got {got!r}, then {more!r}"


def parse_info(line: bytes) -> dict[str, Any]:
    """The object inside an INFO line, whose every byte beside it is checked."""
    assert line.startswith(b"INFO {"), line
    assert line.endswith(b"} \r\n"), line
    info = json.loads(line[5:])
    assert isinstance(info, dict)
    return info
