"""Several servers with one cluster id, each with its own channels: do their lists overlap?

At its start a server sends its list on `_STAN.part.<cluster>`; each of the others answers with its
name and the first of its entries that clashes, or none. Two entries clash when one of them matches
the other as a pattern. A second without an answer ends the question (streaming sheet 15).
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Protocol

from shardd.errors import BootError
from shardd.streaming.messages import PARTITIONING, ControlMessage
from shardd.streaming.partition_bus import ANSWERS, QUESTIONS, PartitionBus, covers

ANSWER_S: Final = 1.0
# Far below the smallest limit of a payload that a server is configured with.
LIST_BYTES_MAX: Final = 65_536


class Timer(Protocol):
    """What `later` returns."""

    def cancel(self) -> None:
        """It does not happen."""


class Partitions:
    """The question and its answers. Lives beside a server, on its bus.

    Args:
        bus: the server's; it hands `QUESTIONS` and `ANSWERS` over.
        cluster_id: of the servers that share channels.
        server_id: this one's name, unique.
        entries: its channels and patterns.
        later: `later(seconds, callback)` of the event loop; what it returns has `cancel`.
        on_clash: called with the reason when this server must not run.
    """

    def __init__(
        self,
        bus: PartitionBus,
        cluster_id: str,
        server_id: str,
        entries: Sequence[str],
        later: Callable[[float, Callable[[], object]], Timer],
        on_clash: Callable[[str], object],
    ) -> None:
        self._bus = bus
        self._subject = b"_STAN.part." + cluster_id.encode()
        self._server_id = server_id
        self._entries = tuple(entries)
        self._later = later
        self._on_clash = on_clash
        self._inbox = b"_INBOX.part." + server_id.encode()
        self._timer: Timer | None = None
        self._on_done: Callable[[], object] | None = None
        self._is_clashing = False
        bus.on_control = self._take
        bus.subscribe(ANSWERS, self._inbox)
        bus.subscribe(QUESTIONS, self._subject)

    def ask(self, on_done: Callable[[], object] | None = None) -> None:
        """Calls back when nobody clashes. Asked again when other servers have come."""
        self._on_done = on_done or self._on_done
        self._bus.flush(self._ask)

    def _ask(self) -> None:
        for data in _lists(self._entries):
            question = ControlMessage(PARTITIONING, self._server_id, data)
            self._bus.send(self._subject, question.encode(), self._inbox)
        self._wait()

    def _wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._later(ANSWER_S, self._done)

    def _done(self) -> None:
        on_done, self._on_done = self._on_done, None
        self._timer = None
        if on_done is not None and not self._is_clashing:
            on_done()

    def _take(self, sid: int, payload: bytes, reply: bytes) -> None:
        """A question of another server, or an answer to ours."""
        try:
            message = ControlMessage.decode(payload)
        except ValueError:
            return
        if message.kind != PARTITIONING or message.server_id in ("", self._server_id):
            return
        if sid == ANSWERS:
            self._answered(message)
        elif reply:
            clash = self._clash(message.data).encode()
            answer = ControlMessage(PARTITIONING, self._server_id, clash, message.reference)
            self._bus.send(reply, answer.encode())

    def _answered(self, message: ControlMessage) -> None:
        if message.data and not self._is_clashing:
            self._is_clashing = True
            entry = message.data.decode("utf-8", "backslashreplace")
            self._on_clash(
                f'channel "{entry}" causes conflict with channels on server "{message.server_id}"'
            )
        elif self._timer is not None:
            self._wait()

    def _clash(self, data: bytes) -> str:
        """The first entry of theirs that clashes with one here; empty when none does."""
        own = [entry.split(".") for entry in self._entries]
        for entry in _entries_of(data):
            theirs = entry.split(".")
            if any(covers(each, theirs) or covers(theirs, each) for each in own):
                return entry
        return ""


def _lists(entries: Sequence[str]) -> Iterator[bytes]:
    """The entries with their lengths, in messages that are small enough."""
    data = b""
    for entry in entries:
        name = entry.encode()
        if len(name) > 0xFFFF:
            raise BootError(f'channel name "{entry[:40]}..." is too long')
        if data and len(data) + 2 + len(name) > LIST_BYTES_MAX:
            yield data
            data = b""
        data += struct.pack("<H", len(name)) + name
    yield data


def _entries_of(data: bytes) -> Iterator[str]:
    """And back; what is cut off is left out."""
    at = 0
    while at + 2 <= len(data):
        (length,) = struct.unpack_from("<H", data, at)
        name = data[at + 2 : at + 2 + length]
        if len(name) == length:
            yield name.decode("utf-8", "surrogateescape")
        at += 2 + length
