"""The log to syslog: datagrams to the host's own daemon or to one elsewhere, never waited for.

A daemon that does not read costs lines, not the server: those that find no room are dropped, and
the next one that does says how many. One that was restarted is found again with the next line.
"""

import contextlib
import errno
import logging
import os
import socket
import time
from typing import Final
from urllib.parse import urlsplit

from shardd.errors import BootError
from shardd.logformat import TRACE

_LOCAL: Final = ("/dev/log", "/var/run/syslog", "/var/run/log")
_PORT: Final = 514
_NAME: Final = "shardd"
_DAEMON: Final = 3 << 3
_SEVERITIES: Final = {
    TRACE: 7,
    logging.DEBUG: 7,
    logging.INFO: 5,  # a notice, as nats-server sends it
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}
# What a daemon takes at the least without cutting it, and what fits in a datagram.
_LINE_BYTES_MAX: Final = 8192


class Syslog:
    """One process's way to the daemon.

    Args:
        address: `udp://HOST:PORT` or `unix://PATH`; empty: the host's own daemon.
    """

    def __init__(self, address: str = "") -> None:
        """Raises BootError when there is no daemon, or its host has no address."""
        self._is_remote = address.startswith("udp://")
        self._dropped = 0
        self._socket: socket.socket | None = None
        self._family: int = socket.AF_UNIX
        self._targets: tuple[str | tuple[object, ...], ...] = _LOCAL
        try:
            if self._is_remote:
                parts = urlsplit(address)
                found = socket.getaddrinfo(
                    parts.hostname or "localhost", parts.port or _PORT, type=socket.SOCK_DGRAM
                )
                self._family, self._targets = found[0][0], (found[0][4],)
            elif address:
                self._targets = (address.removeprefix("unix://"),)
            self._connect()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise BootError(f"error connecting to syslog {address}: {reason}") from None

    def write(self, level: int, text: str) -> None:
        """Sends each line of a text. Raises OSError when the daemon has gone."""
        for line in text.splitlines():
            if self._dropped:
                note = f"{self._dropped} lines were dropped: the log daemon did not read"
                if not self._send(self._packet(logging.WARNING, note)):
                    self._dropped += 1
                    continue
                self._dropped = 0
            if not self._send(self._packet(level, line)):
                self._dropped += 1

    def close(self) -> None:
        """Lets go of the daemon."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _packet(self, level: int, line: str) -> bytes:
        severity = _SEVERITIES[max((each for each in _SEVERITIES if each <= level), default=TRACE)]
        if self._is_remote:
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            head = f"<{_DAEMON | severity}>{now} {socket.gethostname()} {_NAME}[{os.getpid()}]: "
        else:
            now = time.strftime("%b %e %H:%M:%S")
            head = f"<{_DAEMON | severity}>{now} {_NAME}[{os.getpid()}]: "
        return (head + line).encode("utf-8", "backslashreplace")[:_LINE_BYTES_MAX]

    def _send(self, packet: bytes) -> bool:
        """False: no room. A daemon that has gone is looked for once more."""
        for is_last in (False, True):
            try:
                if self._socket is None:
                    self._connect()
                assert self._socket is not None
                self._socket.send(packet)
                return True
            except OSError as error:
                if error.errno in (errno.EAGAIN, errno.ENOBUFS):
                    return False
                self.close()
                if is_last:
                    raise
        return False

    def _connect(self) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        fault = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        for target in self._targets:
            end = socket.socket(self._family, kind)
            try:
                end.connect(target)
            except OSError as error:
                fault = error
                with contextlib.suppress(OSError):
                    end.close()
            else:
                self._socket = end
                return
        raise fault
