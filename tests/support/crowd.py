"""Many connections driven by one thread, each on the worker that a test wants it on.

A member is a connection past CONNECT. What a test lets it send goes out as far as the kernel takes
it, the rest when there is room; what arrives is handed to the member's callbacks as it comes. The
test decides when it is over: ``run_until(condition)`` under a watchdog, never a pause.

``Streams`` is the judge of order: every payload carries the number of its stream and its own, and a
message that is lost, doubled or early fails at the subscriber that sees it.
"""

import json
import selectors
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import psutil

from tests.support.broker import Shardd
from tests.support.waiting import PATIENCE, WAIT_S, WaitedTooLong, wait_until
from tests.support.wireclient import WireClient

OnMessage = Callable[[bytes, bytes, bytes, bytes], None]  # subject, sid, reply, payload

_READ_BYTES: Final = 262_144
_POLL_S: Final = 0.02
# Connections tried until the kernel's spread has reached the wanted worker: at four workers the
# chance to fail is (3/4) ** 400.
_TRIES_MAX: Final = 400


def worker_of(client: WireClient, workers: int) -> int:
    """The index of the worker that serves this client."""
    return int((client.info["client_id"] - 1) % workers)


class Member:
    """One connection of a crowd. Made by `Crowd.join`."""

    def __init__(self, crowd: "Crowd", client: WireClient, worker: int) -> None:
        self.worker = worker
        self.local_port = client.local_port
        self.pongs = 0
        self.oks = 0
        self.errors: list[bytes] = []
        self.is_ended = False
        self.is_reading = True
        self.read_bytes = _READ_BYTES  # the most that one step reads
        self.sent_bytes = 0
        self.on_message: OnMessage = self._unexpected
        self.on_pong: Callable[[], None] | None = None
        self.on_ok: Callable[[], None] | None = None
        self._crowd = crowd
        self._client = client
        self._socket = client.socket
        self._socket.setblocking(False)
        self._outgoing = bytearray()
        self._buffer = bytearray()
        self._needed = 0
        crowd.selector.register(self._socket, selectors.EVENT_READ, self)
        self._events = selectors.EVENT_READ

    # --- out ----------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send these bytes, now or when there is room."""
        if self.is_ended:
            return
        self._outgoing += data
        if len(self._outgoing) == len(data):
            self.flush()

    def publish(self, subject: bytes, payload: bytes, reply: bytes = b"") -> None:
        """PUB."""
        reply = b" " + reply if reply else b""
        self.send(b"PUB %b%b %d\r\n%b\r\n" % (subject, reply, len(payload), payload))

    def subscribe(self, subject: bytes, sid: bytes, queue: bytes = b"") -> None:
        """SUB, without waiting; `Crowd.settle` waits."""
        queue = b" " + queue if queue else b""
        self.send(b"SUB %b%b %b\r\n" % (subject, queue, sid))

    def unsubscribe(self, sid: bytes) -> None:
        """UNSUB, without waiting."""
        self.send(b"UNSUB %b\r\n" % sid)

    @property
    def unsent_bytes(self) -> int:
        """What the server has not taken yet."""
        return len(self._outgoing)

    def limit_unsent(self, count: int) -> None:
        """Let the kernel keep no more than about twice so many bytes that the server does not
        take."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, count)

    def flush(self) -> None:
        """Write what the kernel takes."""
        while self._outgoing and not self.is_ended:
            try:
                sent = self._socket.send(self._outgoing)
            except BlockingIOError:
                break
            except (ConnectionResetError, BrokenPipeError):
                self.leave()
                return
            self.sent_bytes += sent
            del self._outgoing[:sent]
        self._watch()

    # --- in -----------------------------------------------------------------------------------

    def pause(self) -> None:
        """Read nothing until `resume`."""
        self.is_reading = False
        self._watch()

    def resume(self) -> None:
        """Read again."""
        self.is_reading = True
        self._watch()

    def receive(self) -> None:
        """Read once and handle what is whole."""
        try:
            data = self._socket.recv(self.read_bytes)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self.leave()
            return
        self._buffer += data
        if len(self._buffer) >= self._needed:
            self._parse()

    def leave(self) -> None:
        """Close the connection; harmless when the server did."""
        if not self.is_ended:
            self.is_ended = True
            if self._events:
                self._crowd.selector.unregister(self._socket)
            self._client.close()

    def _parse(self) -> None:
        buffer = self._buffer
        position = 0
        self._needed = 0
        while (end := buffer.find(b"\r\n", position)) >= 0:
            line = bytes(buffer[position:end])
            if line.startswith((b"MSG ", b"HMSG ")):
                fields = line.split(b" ")
                stop = end + 2 + int(fields[-1])
                if len(buffer) < stop + 2:
                    self._needed = stop + 2 - position
                    break
                assert buffer[stop : stop + 2] == b"\r\n", f"no end of the payload after {line!r}"
                sizes = 2 if line.startswith(b"H") else 1
                reply = fields[3] if len(fields) == 4 + sizes else b""
                position = stop + 2
                self.on_message(fields[1], fields[2], reply, bytes(buffer[end + 2 : stop]))
            else:
                position = end + 2
                self._handle(line)
        del buffer[:position]

    def _handle(self, line: bytes) -> None:
        if line == b"PONG":
            self.pongs += 1
            if self.on_pong is not None:
                self.on_pong()
        elif line == b"PING":
            self.send(b"PONG\r\n")
        elif line == b"+OK":
            self.oks += 1
            if self.on_ok is not None:
                self.on_ok()
        elif line.startswith(b"-ERR"):
            self.errors.append(line)
        else:
            raise AssertionError(f"worker {self.worker} sent {line!r}")

    def _watch(self) -> None:
        events = selectors.EVENT_READ if self.is_reading else 0
        if self._outgoing:
            events |= selectors.EVENT_WRITE
        if events == self._events or self.is_ended:
            return
        if not self._events:
            self._crowd.selector.register(self._socket, events, self)
        elif not events:
            self._crowd.selector.unregister(self._socket)
        else:
            self._crowd.selector.modify(self._socket, events, self)
        self._events = events

    def _unexpected(self, subject: bytes, sid: bytes, reply: bytes, payload: bytes) -> None:
        raise AssertionError(f"worker {self.worker} delivered {subject!r} {sid!r} {payload[:80]!r}")


class Crowd:
    """The connections of one test to one server."""

    def __init__(self, server: Shardd) -> None:
        self.server = server
        self.selector = selectors.DefaultSelector()
        self.members: list[Member] = []

    def join(self, worker: int | None = None, **options: Any) -> Member:
        """A connection to this worker, or to any."""
        receive_bytes = options.pop("receive_bytes", None)
        for _ in range(_TRIES_MAX):
            client = WireClient(self.server.host, self.server.port, receive_bytes=receive_bytes)
            found = worker_of(client, self.server.workers)
            if worker is None or found == worker:
                try:
                    client.connect(**options)
                except BaseException:
                    client.close()
                    raise
                member = Member(self, client, found)
                self.members.append(member)
                return member
            client.close()
        raise AssertionError(f"no connection of {_TRIES_MAX} reached worker {worker}")

    def join_each(self, **options: Any) -> list[Member]:
        """One connection to every worker, in their order."""
        return [self.join(worker, **options) for worker in range(self.server.workers)]

    def step(self, timeout_s: float = _POLL_S) -> None:
        """Let every connection that is ready have its turn."""
        for key, events in self.selector.select(timeout_s):
            member: Member = key.data
            if events & selectors.EVENT_READ and not member.is_ended:
                member.receive()
            if events & selectors.EVENT_WRITE and not member.is_ended:
                member.flush()

    def run_until(
        self, condition: Callable[[], object], what: str, timeout_s: float = WAIT_S
    ) -> None:
        """Work until the condition holds; the time is a watchdog."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise WaitedTooLong(f"after {timeout_s:.1f} s still waiting for: {what}")
            self.step()

    def settle(self, members: Iterable[Member] | None = None) -> None:
        """Everything sent so far has been handled, and every SUB is visible to all."""
        asked = [m for m in (self.members if members is None else members) if not m.is_ended]
        goals = [(member, member.pongs + 1) for member in asked]
        for member in asked:
            member.send(b"PING\r\n")
        self.run_until(
            lambda: all(member.pongs >= goal or member.is_ended for member, goal in goals),
            "a PONG for everybody",
        )

    def close(self) -> None:
        """Close every connection."""
        for member in self.members:
            member.leave()
        self.selector.close()


class Streams:
    """Numbered messages: every subscriber must see each stream without a gap and without a double.

    A payload is ``<stream> <number> <length> `` and as much of a fixed text as the length says, so
    its bytes are checked too.
    """

    _TEXT: Final = bytes(range(256)) * 8192

    def __init__(self) -> None:
        self.sent: dict[int, int] = {}
        self.seen: dict[tuple[Member, int], int] = {}
        self.received = 0

    def publish(self, member: Member, subject: bytes, stream: int, length: int = 0) -> None:
        """The next message of a stream."""
        number = self.sent.get(stream, 0)
        self.sent[stream] = number + 1
        text = self._TEXT[number % 256 : number % 256 + length]
        member.publish(subject, b"%d %d %d %b" % (stream, number, length, text))

    def attach(self, member: Member) -> None:
        """Check what this subscriber gets from now on."""

        def check(subject: bytes, sid: bytes, reply: bytes, payload: bytes) -> None:
            self.check(member, payload)

        member.on_message = check

    def check(self, member: Member, payload: bytes) -> None:
        """The next message at this subscriber."""
        first, second, third, text = payload.split(b" ", 3)
        stream, number, length = int(first), int(second), int(third)
        expected = self.seen.get((member, stream), 0)
        assert number == expected, (
            f"stream {stream} at a subscriber of worker {member.worker}: {number} came"
            f" where {expected} was next"
        )
        assert text == self._TEXT[number % 256 : number % 256 + length], "the payload was damaged"
        self.seen[member, stream] = expected + 1
        self.received += 1

    def skip(self, member: Member, stream: int) -> None:
        """This subscriber joins late: what was sent so far is not for it."""
        self.seen[member, stream] = self.sent.get(stream, 0)

    def is_level(self, member: Member, stream: int) -> bool:
        """Whether this subscriber has all of the stream."""
        return self.seen.get((member, stream), 0) == self.sent.get(stream, 0)

    def assert_level(self, members: Iterable[Member], streams: Iterable[int]) -> None:
        """Fail, and say who lacks what, unless these subscribers have all of these streams."""
        streams = list(streams)
        behind = [
            f"stream {stream} at worker {member.worker}:"
            f" {self.seen.get((member, stream), 0)} of {self.sent.get(stream, 0)}"
            for member in members
            for stream in streams
            if not self.is_level(member, stream)
        ]
        assert not behind, behind


class WorkerPids:
    """Which process is which worker, over any number of deaths."""

    def __init__(self, server: Shardd) -> None:
        self._server = server
        self._pids = [process.pid for process in server.worker_processes()]
        assert len(self._pids) == server.workers

    def __getitem__(self, index: int) -> int:
        return self._pids[index]

    def wait_replaced(self, index: int, timeout_s: float = 30.0 * PATIENCE) -> int:
        """Wait until the log says that another process is ready in this place."""
        old = f"Worker {index}, pid {self._pids[index]}, ended"

        def find() -> int:
            _, ended, after = self._server.log_text().partition(old)
            mark = f"Worker {index} is ready, pid "
            _, ready, rest = after.partition(mark)
            return int(rest.split()[0]) if ended and ready and "\n" in rest else 0

        self._pids[index] = wait_until(find, f"the successor of worker {index}", timeout_s)
        return self._pids[index]


def is_listening(host: str, port: int) -> bool:
    """Whether anybody accepts on this address."""
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


def is_stopped(pid: int) -> bool:
    """Whether a SIGSTOP has taken effect."""
    return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)


def connect_line(**options: Any) -> bytes:
    """A CONNECT for whoever writes bytes."""
    return b"CONNECT %b\r\n" % json.dumps({"verbose": False} | options).encode()
