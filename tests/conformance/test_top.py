"""`shardd top` and `shardd server check` against a running server."""

import contextlib
import json
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Final

import pytest

from shardd.cli.main import main
from tests.support.broker import Shardd, free_port
from tests.support.fixtures import Dial
from tests.support.waiting import PATIENCE

_RUN_S: Final = 60 * PATIENCE


@pytest.fixture
def server(no_leaks: None) -> Iterator[Shardd]:
    broker = Shardd(2)
    broker.start_text('http: "127.0.0.1:-1"\nserver_name: one\n')
    yield broker
    broker.stop()


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "shardd", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=False,
    )


def test_one_look_tells_what_was_sent(server: Shardd, dial: Dial) -> None:
    client = dial(server).connect(name="sender")
    for _ in range(9):
        client.publish(b"foo", b"12345")
    client.ping()
    words = ("--once", "--interval", "0.1", "-m", server.monitoring)
    done = run("top", "--json", *words)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    (row,) = found["connections"]
    assert (row["name"], row["in_msgs"], row["in_bytes"]) == ("sender", 9, 45)
    assert found["varz"]["in_msgs"] == 9
    assert sum(each["messages_in"] for each in found["processes"]) == 9
    shown = run("top", *words).stdout
    assert "sender" in shown
    assert "worker-1" in shown
    assert "\x1b" not in shown


def test_keys_sort_and_end(server: Shardd, dial: Dial) -> None:
    dial(server).connect(name="sender")
    leader, follower = pty.openpty()
    try:
        with subprocess.Popen(
            [sys.executable, "-m", "shardd", "top", "-d", "0.1", "-m", server.monitoring],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "160", "LINES": "50"},
        ) as process:
            seen = b""
            while b"by msgs_from" not in seen:
                seen += os.read(leader, 65_536)
            os.write(leader, b"s")
            while b"by msgs_to" not in seen:
                seen += os.read(leader, 65_536)
            os.write(leader, b"q")
            os.set_blocking(leader, False)
            assert process.wait(_RUN_S) == 0
    finally:
        os.close(leader)
        os.close(follower)


def test_probes_get_exit_codes(server: Shardd) -> None:
    where = ("-m", server.monitoring)
    good = run("server", "check", *where)
    assert (good.returncode, good.stdout[:6]) == (0, "OK one")
    warned = run("server", "check", "--warn", "mem=1", *where)
    assert warned.returncode == 1
    assert warned.stdout.startswith("WARNING one: mem is ")
    critical = run("server", "check", "--crit", "mem=1", "--json", *where)
    assert critical.returncode == 2
    assert json.loads(critical.stdout)["varz"]["server_name"] == "one"
    nobody = run("server", "check", "-m", f"http://127.0.0.1:{free_port()}")
    assert nobody.returncode == 3
    assert nobody.stdout.startswith("UNKNOWN ")
    assert run("server", "check", "--warn", "nonsense=1", *where).returncode == 3


def test_a_server_that_is_not_there_is_one_line() -> None:
    done = run("top", "--once", "-m", f"http://127.0.0.1:{free_port()}")
    assert done.returncode == 1
    assert done.stderr.startswith("shardd: http://127.0.0.1:")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"INFO {}\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "IncompleteRead"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]", "not a document"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000, "recursion"),
        (b"HTTP/1.1 500 No\r\n\r\n{ \x1b", "Expecting"),
        (b"HTTP/1.1 404 No\r\n\r\n<html>\n\x1b[31m", "404 <html>\\n\\x1b"),
        (b"", "closed connection"),
    ],
)
def test_what_is_no_monitoring_is_unknown_in_one_line(
    said: bytes, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.recv(65_536)
                        connection.sendall(said)

        answering = threading.Thread(target=answer)
        answering.start()
        try:
            where = f"127.0.0.1:{listener.getsockname()[1]}"
            assert main(["server", "check", "-m", where, "--timeout", "20"]) == 3
            out, err = capsys.readouterr()
            assert (out[:8], out.count("\n"), err) == ("UNKNOWN ", 1, "")
            assert why in out
            assert main(["top", "--once", "-m", where, "--timeout", "20"]) == 1
            out, err = capsys.readouterr()
            assert (out, err[:8], err.count("\n")) == ("", "shardd: ", 1)
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            answering.join()


@pytest.mark.parametrize(
    "words",
    [("-m", "http://a:b"), ("-m", "http://["), ("--cacert", "/no"), ("--timeout", "x"), ("--no",)],
)
def test_what_cannot_be_asked_is_unknown(words: tuple[str, ...]) -> None:
    assert main(["server", "check", *words]) == 3
    assert main(["top", "--once", *words]) == 1
