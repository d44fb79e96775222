"""The Python face of the connections that make load."""

import socket
from collections.abc import Sequence

class LinkError(Exception):
    """A connection was refused, lost, or told what it should not be; one line says so."""

class Link:
    """One connection, ready for use, and what has passed on it."""

    name: str
    fd: int
    messages: int
    start_ns: int
    end_ns: int
    payload_bytes: int
    def __init__(self, connection: socket.socket, name: str, held: bytes = b"") -> None: ...
    def send(self, data: bytes) -> None: ...
    def limit(self, quota: int) -> None: ...

def settle(links: Sequence[Link], patience_s: float) -> None: ...
def use_fine_timers() -> None: ...
