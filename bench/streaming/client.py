"""A streaming client for what stan-bench does not measure: one message at a time, many channels.

Plain blocking sockets. One NATS connection carries requests, acknowledgements and heartbeats.
"""

import socket
import time
from types import TracebackType
from typing import Final, Self

from shardd.streaming import messages as pb

CONNECT: Final = (
    b'CONNECT {"verbose":false,"pedantic":false,"headers":true,"no_responders":true}\r\n'
)
INBOX: Final = b"_INBOX.bench"
BEATS: Final = b"_INBOX.beats"
PATIENCE_S: Final = 30.0


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Client:
    """One NATS connection and one streaming client on it."""

    def __init__(self, host: str, port: int, cluster_id: str) -> None:
        """Open the NATS connection."""
        self._cluster = cluster_id.encode()
        self._client_id = ""
        self._socket = socket.create_connection((host, port), PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._input = self._socket.makefile("rb")
        self._socket.sendall(CONNECT + b"SUB " + INBOX + b" 1\r\nSUB " + BEATS + b" 2\r\nPING\r\n")
        while self._line() != b"PONG\r\n":
            pass

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
        """Close the NATS connection."""
        self._input.close()
        self._socket.close()

    def _line(self) -> bytes:
        line = self._input.readline()
        if not line:
            raise EOFError("the server closed the connection")
        return line

    def _send(self, subject: bytes, payload: bytes, reply: bytes = INBOX) -> None:
        size = b"%d" % len(payload)
        self._socket.sendall(
            b"PUB " + subject + b" " + reply + b" " + size + b"\r\n" + payload + b"\r\n"
        )

    def _answer(self) -> bytes | None:
        """The next answer to this client; None when nobody was there."""
        while True:
            line = self._line()
            if line == b"PING\r\n":
                self._socket.sendall(b"PONG\r\n")
            elif line.startswith(b"HMSG "):
                self._input.read(int(line.split()[-1]) + 2)
                return None
            elif line.startswith(b"MSG "):
                words = line.split()
                payload = self._input.read(int(words[-1]) + 2)[:-2]
                if words[2] == b"1":
                    return payload
                self._socket.sendall(b"PUB " + words[3] + b" 0\r\n\r\n")

    def try_open(self, client_id: str) -> bool:
        """Ask for a connection to the streaming server; False when nobody is there yet."""
        request = pb.ConnectRequest(
            client_id=client_id, heartbeat_inbox=BEATS, protocol=1, conn_id=client_id.encode()
        )
        self._send(b"_STAN.discover." + self._cluster, request.encode())
        answer = self._answer()
        if answer is None:
            return False
        error = pb.ConnectResponse.decode(answer).error
        if error:
            raise OSError(f"a connection was refused: {error}")
        self._client_id = client_id
        return True

    def close_session(self) -> None:
        """Take leave of the streaming server."""
        request = pb.CloseRequest(client_id=self._client_id)
        self._send(b"_STAN.close." + self._cluster, request.encode())
        self._answer()

    def _pub(self, channel: bytes, data: bytes) -> tuple[bytes, bytes]:
        message = pb.PubMsg(
            client_id=self._client_id, conn_id=self._client_id.encode(), guid=b"guid",
            subject=channel, data=data,
        )  # fmt: skip
        return b"_STAN.pub." + self._cluster + b"." + channel, message.encode()

    def _check(self, answer: bytes | None) -> None:
        if answer is None:
            raise OSError("nobody takes messages")
        error = pb.PubAck.decode(answer).error
        if error:
            raise OSError(f"a message was refused: {error}")

    def publish(self, channel: bytes, data: bytes) -> None:
        """Store one message, and wait for its acknowledgement."""
        self._send(*self._pub(channel, data))
        self._check(self._answer())

    def publish_all(self, channels: list[bytes], data: bytes, window: int = 100) -> None:
        """Store one message in each channel, so many under way at a time."""
        under_way = 0
        for channel in channels:
            self._send(*self._pub(channel, data))
            under_way += 1
            if under_way == window:
                self._check(self._answer())
                under_way -= 1
        for _ in range(under_way):
            self._check(self._answer())

    def time_publishes(self, channel: bytes, data: bytes, seconds: float) -> list[int]:
        """Publish one at a time for so long: nanoseconds from each send to its acknowledgement."""
        subject, payload = self._pub(channel, data)
        samples = []
        end_ns = time.perf_counter_ns() + int(seconds * 1e9)
        now_ns = time.perf_counter_ns()
        while now_ns < end_ns:
            self._send(subject, payload)
            answer = self._answer()
            done_ns = time.perf_counter_ns()
            samples.append(done_ns - now_ns)
            self._check(answer)
            now_ns = time.perf_counter_ns()
        return samples
