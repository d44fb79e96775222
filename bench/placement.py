"""Opening connections, and choosing the worker that they land on.

shardd's `client_id` in INFO tells the worker: (client_id - 1) modulo the number of workers. A
connection that must be on a certain worker is opened again and again until the kernel has put it
there. A server with one process has one place only, and every connection is in it.
"""

import contextlib
import enum
import json
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.frames import HELLO, Subscription

ATTEMPTS_MAX: Final = 400
INFO_BYTES_MAX: Final = 65_536


class ServerRefusal(Exception):
    """The server closed a connection, refused it, or said what it should not."""


class Place(enum.Enum):
    """Which worker a connection must be on."""

    ANY = "any"
    FIRST = "first"
    OTHERS = "others"

    def accepts(self, worker: int) -> bool:
        """Whether a connection may be on this worker."""
        return self is Place.ANY or (worker == 0) == (self is Place.FIRST)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server listens. `workers` is 0 when connections cannot be placed."""

    host: str
    port: int
    workers: int
    patience_s: float
    authority: str = ""  # a file with the certificate to trust; empty: no TLS


def read_line(connection: socket.socket) -> bytes:
    """Read up to the first line end, and not one byte further."""
    line = bytearray()
    if isinstance(connection, ssl.SSLSocket):
        # There is no looking ahead in TLS.
        while not line.endswith(b"\n"):
            got = connection.recv(1)
            if not got:
                raise ServerRefusal(f"the server closed the connection after {bytes(line)!r}")
            line += got
        return bytes(line)
    while len(line) < INFO_BYTES_MAX:
        seen = connection.recv(INFO_BYTES_MAX, socket.MSG_PEEK)
        if not seen:
            raise ServerRefusal(f"the server closed the connection after {bytes(line)!r}")
        end = seen.find(b"\n") + 1
        line += connection.recv(end or len(seen))
        if end:
            return bytes(line)
    raise ServerRefusal("a line without an end")


def await_pong(connection: socket.socket) -> None:
    """Read the PONG; before it there may be PINGs of the server's own, and nothing else."""
    while (line := read_line(connection)) != b"PONG\r\n":
        if line != b"PING\r\n":
            raise ServerRefusal(f"not a PONG: {line[:200]!r}")
        connection.sendall(b"PONG\r\n")


def flush(connection: socket.socket) -> None:
    """Wait until the server has handled all that was sent, and answered nothing but a PONG."""
    connection.sendall(b"PING\r\n")
    await_pong(connection)


def worker_of(info_line: bytes, workers: int) -> int:
    """The worker that an INFO line comes from."""
    if not info_line.startswith(b"INFO "):
        raise ServerRefusal(f"not an INFO: {info_line[:200]!r}")
    client_id = json.loads(info_line[5:])["client_id"]
    return (int(client_id) - 1) % workers


def open_once(address: Address) -> tuple[socket.socket, bytes]:
    """A connection and its INFO line."""
    connection = socket.create_connection((address.host, address.port), address.patience_s)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        return connection, read_line(connection)
    except BaseException:
        connection.close()
        raise


def encrypt(connection: socket.socket, address: Address) -> ssl.SSLSocket:
    """The connection over TLS 1.3, its handshake done."""
    context = ssl.create_default_context(cafile=address.authority)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context.wrap_socket(connection, server_hostname=address.host)


def open_placed(address: Address, place: Place) -> socket.socket:
    """A connection in its place, ready for use."""
    for _ in range(ATTEMPTS_MAX):
        connection, info = open_once(address)
        if address.workers < 2 or place.accepts(worker_of(info, address.workers)):
            if address.authority:
                connection = encrypt(connection, address)
            connection.sendall(HELLO)
            await_pong(connection)
            return connection
        connection.close()
    raise ServerRefusal(f"no connection out of {ATTEMPTS_MAX} came to place {place.value!r}")


def await_interest(far: Address, near: Address) -> None:
    """Wait until what was subscribed to at one host of a cluster is known at the other: what is
    subscribed to after it arrives after it."""
    subject = b"bench.marker"
    listener, talker = open_placed(far, Place.ANY), open_placed(near, Place.ANY)
    with listener, talker:
        subscribe(listener, [Subscription(subject.decode(), "1")])
        listener.settimeout(0.05)
        deadline = time.monotonic() + far.patience_s
        while time.monotonic() < deadline:
            talker.sendall(b"PUB " + subject + b" 0\r\n\r\n")
            with contextlib.suppress(TimeoutError):
                if listener.recv(1):
                    return
    raise ServerRefusal("the interest of one host did not reach the other")


def subscribe(connection: socket.socket, subscriptions: Sequence[Subscription]) -> None:
    """Subscribe, and wait until the server has taken it."""
    connection.sendall(b"".join(wanted.encode() for wanted in subscriptions) + b"PING\r\n")
    await_pong(connection)
