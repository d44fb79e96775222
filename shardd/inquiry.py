"""Questions to a running server, asked on its host by its own user: how they are put and answered.

Each process listens on a socket in the server's runtime directory, which nobody but its user (and
root) can enter. Whoever asks sends one line of JSON, an object whose `ask` is the question's name,
and gets the answer in parts: one line of JSON each, and an empty line at the end, so that an answer
that was cut off is never taken for a whole one. Parts are made one by one between other work: a
long answer holds up nothing. The supervisor opens the sockets and keeps them, so that a question
that comes while the process that answers is being replaced finds the next one.
"""

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from shardd import limits
from shardd.errors import ShardError
from shardd.sockets import open_unix_listener

_MODE: Final = 0o600

Part = Mapping[str, Any]
# Makes the parts of an answer from the question; a part may be a future.
Answer = Callable[[Part], Iterator[Part | asyncio.Future[Part]]]


class InquiryError(ShardError):
    """The server did not answer, or not to the end; the text says why."""


def socket_name(process: str) -> str:
    """The socket of one process of a server (`Router`, `Worker 0`), in its runtime directory."""
    return f"inquiries.{process.lower().replace(' ', '-')}"


def open_inquiries(directory: Path, process: str) -> socket.socket:
    """The listening socket of one process, in the server's runtime directory. Raises BootError."""
    return open_unix_listener(str(directory / socket_name(process)), _MODE)


class Inquiries:
    """Answers questions. Touched by one event loop only.

    Args:
        listener: where they come in; it stays its owner's.
        loop: the event loop.
        answers: by the names of the questions.
    """

    def __init__(
        self,
        listener: socket.socket,
        loop: asyncio.AbstractEventLoop,
        answers: Mapping[str, Answer],
    ) -> None:
        self._listener = listener
        self._loop = loop
        self._answers = answers
        self._tasks: set[asyncio.Task[None]] = set()
        self._retry: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Answer from now on."""
        self._retry = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def stop(self) -> None:
        """Answer no more: what is not answered yet is cut off."""
        if self._retry is not None:
            self._retry.cancel()
        self._loop.remove_reader(self._listener.fileno())
        for task in self._tasks:
            task.cancel()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:  # no descriptor left: it waits, and does not spin
            self._loop.remove_reader(self._listener.fileno())
            self._retry = self._loop.call_later(limits.ACCEPT_BACKOFF_S_MAX, self.start)
            return
        if len(self._tasks) >= limits.INQUIRIES_MAX:
            connection.close()
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                async with asyncio.timeout(limits.INQUIRY_S_MAX):
                    line = await self._read(connection)
                for given in self._parts(line):
                    part = await _settled(given)
                    await self._send(connection, _line(part))
                    await asyncio.sleep(0)  # the rest of the process has its turn
                await self._send(connection, b"\n")
            except (OSError, TimeoutError):
                return  # whoever asked has left, or does not read

    async def _send(self, connection: socket.socket, line: bytes) -> None:
        async with asyncio.timeout(limits.INQUIRY_S_MAX):
            await self._loop.sock_sendall(connection, line)

    async def _read(self, connection: socket.socket) -> bytes:
        """The question's line, as far as it came."""
        data = b""
        while b"\n" not in data and len(data) < limits.INQUIRY_BYTES_MAX:
            more = await self._loop.sock_recv(connection, limits.INQUIRY_BYTES_MAX)
            if not more:
                break
            data += more
        return data.partition(b"\n")[0]

    def _parts(self, line: bytes) -> Iterator[Part | asyncio.Future[Part]]:
        try:
            question = json.loads(line)
        except (ValueError, RecursionError):
            question = None
        name = question.get("ask") if isinstance(question, dict) else None
        answer = self._answers.get(name) if isinstance(name, str) else None
        if answer is None:
            return iter(({"error": "this server does not know the question"},))
        return answer(question)


async def _settled(part: Part | asyncio.Future[Part]) -> Part:
    """A part, once it is there. Raises TimeoutError."""
    if not isinstance(part, asyncio.Future):
        return part
    async with asyncio.timeout(limits.INQUIRY_S_MAX):
        return await part


def ask(path: Path, question: Part) -> Iterator[dict[str, Any]]:
    """Puts a question to the server that listens there, and yields the parts of its answer.

    Raises:
        OSError: it cannot be reached.
        InquiryError: it does not answer as it should.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(limits.INQUIRY_S_MAX)
        try:
            connection.connect(str(path))
            connection.sendall(_line(question))
            for line in _lines(connection):
                part = json.loads(line)
                if "error" in part:
                    raise InquiryError(part["error"])
                yield part
        except TimeoutError:
            raise InquiryError(f"no answer within {limits.INQUIRY_S_MAX:g} s") from None


def _lines(connection: socket.socket) -> Iterator[bytes]:
    """Lines up to the empty one."""
    with connection.makefile("rb") as reader, contextlib.suppress(ConnectionResetError):
        for line in reader:
            if line == b"\n":
                return
            if line.endswith(b"\n"):
                yield line
    raise InquiryError("the server ended in the middle of its answer")


def _line(part: Part) -> bytes:
    return json.dumps(part, separators=(",", ":")).encode() + b"\n"
