"""What a service manager is told (systemd's sd_notify): ready, reloading, stopping, alive.

The protocol is a datagram of `KEY=VALUE` lines to the socket that the environment names. It is
taken out of the environment, so that no child speaks for the server. Without it nothing is said. A
message is never waited for: a manager that does not listen costs nothing.
"""

import os
import socket
import time
from collections.abc import Callable, MutableMapping
from typing import Final

_SOCKET: Final = "NOTIFY_SOCKET"
_WATCHDOG_US: Final = "WATCHDOG_USEC"
_WATCHDOG_PID: Final = "WATCHDOG_PID"


class Notifier:
    """Owned by one process, the one that the manager has started.

    Args:
        address: the manager's socket; empty: there is none. A leading @ stands for an abstract
            name.
        watchdog_s: seconds without a sign of life after which the manager ends the service; 0: it
            does not watch.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        address: str = "",
        watchdog_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._period_s = watchdog_s / 2
        self._clock = clock
        self._next = clock()
        self._status = ""

    @classmethod
    def from_environment(cls, environment: MutableMapping[str, str]) -> "Notifier":
        """What the manager has left in the environment, which is then free of it."""
        address = environment.pop(_SOCKET, "")
        microseconds = environment.pop(_WATCHDOG_US, "")
        pid = environment.pop(_WATCHDOG_PID, "")
        if not address.startswith(("/", "@")):
            return cls()
        is_meant = not pid or pid == str(os.getpid())
        watchdog_s = int(microseconds) / 1e6 if is_meant and microseconds.isdecimal() else 0.0
        return cls(address, watchdog_s)

    def ready(self, status: str = "") -> None:
        """The server serves; or a reload is over, however it went."""
        self._say("READY=1", status)

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._say("RELOADING=1", "Reloading the configuration", f"MONOTONIC_USEC={microseconds}")

    def stopping(self, status: str, within_s: float = 0.0) -> None:
        """The server ends; `within_s`: how long it may take, if that is longer than usual."""
        more = [f"EXTEND_TIMEOUT_USEC={int(within_s * 1e6)}"] if within_s else []
        self._say("STOPPING=1", status, *more)

    def status(self, text: str) -> None:
        """One line about what the server does; said again only when it is another."""
        if text != self._status:
            self._say("", text)

    def alive(self) -> None:
        """The server is well. Said at half the manager's time, however often it is called."""
        if self._period_s and self._clock() >= self._next:
            self._next = self._clock() + self._period_s
            self._send("WATCHDOG=1")

    def wait_s(self) -> float:
        """How long the caller may sleep until the next sign of life; infinity: for ever."""
        if not self._period_s:
            return float("inf")
        return max(0.0, self._next - self._clock())

    def _say(self, state: str, status: str, *more: str) -> None:
        if status:
            self._status = status
            more = (f"STATUS={status}", *more)
        self._send("\n".join([state, *more] if state else more))

    def _send(self, message: str) -> None:
        if not self._address:
            return
        kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        try:
            with socket.socket(socket.AF_UNIX, kind) as end:
                end.sendto(message.encode(), self._address)
        except OSError:
            pass  # the manager has gone, or does not read: the server does not depend on it
