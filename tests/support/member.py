"""A client that comes and goes: what it holds, and what it hears, message by message."""

import contextlib
import itertools
import re
from typing import Final

from tests.support.broker import Broker
from tests.support.wireclient import WireClient

_MESSAGE: Final = re.compile(rb"MSG (\S+) (\d+) (\d+)\r\n")


def matches(pattern: bytes, subject: bytes) -> bool:
    """Whether a subscription to the one hears the other."""
    wanted, tokens = pattern.split(b"."), subject.split(b".")
    if wanted[-1] == b">":
        wanted = wanted[:-1]
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(
        one in (b"*", other) for one, other in zip(wanted, tokens, strict=True)
    )


_member_numbers = itertools.count()
Heard = tuple[int, bytes, bytes]  # sid, subject, payload


class Member:
    """A client of one host, and what it holds: (pattern, queue) by sid."""

    def __init__(self, index: int, broker: Broker) -> None:
        self.index = index
        self.number = next(_member_numbers)
        self.client = WireClient(broker.host, broker.port).connect()
        self.holds: dict[int, tuple[bytes, bytes]] = {}
        self.held: dict[int, tuple[bytes, bytes]] = {}  # at any time
        self.backlog: list[Heard] = []  # read, and not looked at
        self._sids = itertools.count(1)

    def subscribe(self, pattern: bytes, queue: bytes = b"") -> int:
        """Hold one thing more; returns its sid."""
        sid = next(self._sids)
        self.client.send(b"SUB %b %b %d\r\n" % (pattern, queue, sid))
        self.holds[sid] = self.held[sid] = (pattern, queue)
        return sid

    def unsubscribe(self, sid: int) -> None:
        """Hold it no more."""
        del self.holds[sid]
        self.client.send(b"UNSUB %d\r\n" % sid)

    def take(self) -> Heard:
        """The next message; nothing else may come."""
        return self._message(self.client.expect_line())

    def read(self) -> list[Heard]:
        """What comes before the answer to a PING."""
        heard: list[Heard] = []
        while (line := self.client.expect_line()) != b"PONG\r\n":
            heard.append(self._message(line))
        return heard

    def _message(self, line: bytes) -> Heard:
        found = _MESSAGE.fullmatch(line)
        assert found, f"a client of host{self.index + 1} is told {line!r}"
        return int(found[2]), found[1], self.client.read(int(found[3]) + 2)[:-2]

    def is_there(self) -> bool:
        """Whether the connection still is."""
        with contextlib.suppress(OSError, AssertionError):
            self.client.send(b"PING\r\n")
            self.backlog += self.read()
            return True
        return False
