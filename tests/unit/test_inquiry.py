"""Questions to a running server: whole answers or none, and nothing that holds the server up."""

import asyncio
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from shardd import limits
from shardd.inquiry import Inquiries, InquiryError, Part, ask, open_inquiries, socket_name


def count(question: Part) -> Iterator[Part]:
    """An answer of as many parts as are asked for."""
    for number in range(question["parts"]):
        yield {"number": number}


class Server:
    """Something that answers, in a thread of its own."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / socket_name("Router")
        self._listener = open_inquiries(directory, "Router")
        self.loop = uvloop.new_event_loop()
        self.faults: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.faults.append(context))
        self.inquiries = Inquiries(self._listener, self.loop, {"count": count})
        self.loop.call_soon(self.inquiries.start)
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()

    def call(self, function: Callable[[], None]) -> None:
        """Runs it in the server's loop, and what that makes ready."""

        async def run() -> None:
            function()
            await asyncio.sleep(0)

        asyncio.run_coroutine_threadsafe(run(), self.loop).result(10)

    def close(self) -> None:
        self.call(self.inquiries.stop)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()
        self._listener.close()
        assert self.faults == []

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(10)
        connection.connect(str(self.path))
        return connection


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.chdir(tmp_path)  # a path of any length, short enough for a socket
    server = Server(Path())
    yield server
    server.close()


def test_an_answer_comes_in_parts(server: Server) -> None:
    for parts in (0, 1, 3, 500):
        question = {"ask": "count", "parts": parts}
        assert list(ask(server.path, question)) == [{"number": each} for each in range(parts)]


def test_nobody_else_can_connect(server: Server) -> None:
    assert os.stat(server.path).st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "line", [b"", b"{", b"[]", b'"count"', b'{"ask":1}', b'{"ask":"else"}', b"[" * 4000, b"\xff"]
)
def test_what_is_no_question_is_answered_with_an_error(server: Server, line: bytes) -> None:
    with server.connect() as connection, connection.makefile("rb") as reader:
        connection.sendall(line + b"\n")
        assert json.loads(reader.readline()) == {"error": "this server does not know the question"}
        assert reader.read() == b"\n"


def test_an_unknown_question_is_an_error_of_whoever_asks(server: Server) -> None:
    with pytest.raises(InquiryError, match="does not know the question"):
        list(ask(server.path, {"ask": "else"}))


def test_more_than_a_question_is_not_read(server: Server) -> None:
    with server.connect() as connection, connection.makefile("rb") as reader:
        connection.sendall(b"x" * limits.INQUIRY_BYTES_MAX)
        assert b"error" in reader.readline()


def test_a_few_who_say_nothing_do_not_keep_others_waiting_for_ever(server: Server) -> None:
    silent = [server.connect() for _ in range(limits.INQUIRIES_MAX)]
    with server.connect() as one_more:
        assert one_more.recv(10) == b""
    for connection in silent:
        connection.close()
    # Until the server has seen that they left, an asker may still find no place.
    for _ in range(1000):
        try:
            assert len(list(ask(server.path, {"ask": "count", "parts": 2}))) == 2
            break
        except (InquiryError, BrokenPipeError):
            continue
    else:
        raise AssertionError("those who left still have their places")


def test_who_leaves_early_does_no_harm(server: Server) -> None:
    for _ in range(20):
        with server.connect() as connection:
            connection.sendall(b'{"ask":"count","parts":10000}\n')
            connection.recv(10)
    assert len(list(ask(server.path, {"ask": "count", "parts": 1}))) == 1


def test_an_answer_that_is_cut_off_is_none(server: Server) -> None:
    parts = ask(server.path, {"ask": "count", "parts": 10**9})
    assert next(parts) == {"number": 0}
    server.call(server.inquiries.stop)
    with pytest.raises(InquiryError, match="ended in the middle of its answer"):
        for _ in parts:
            pass
    server.call(server.inquiries.start)


def test_a_question_waits_for_the_next_process_that_answers(server: Server) -> None:
    server.call(server.inquiries.stop)
    with server.connect() as connection, connection.makefile("rb") as reader:
        connection.sendall(b'{"ask":"count","parts":1}\n')
        server.call(server.inquiries.start)
        assert reader.readline() == b'{"number":0}\n'
