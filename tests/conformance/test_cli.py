"""The command line as real processes: flags beside nats-server's, and the client commands.

A flag that one of the two cannot read, the other cannot read either, with the same words and the
same exit code. The client commands are tried on nats-server and on shardd.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.broker import NATS_SERVER, Broker
from tests.support.waiting import PATIENCE, wait_until

RUN_S: Final = 20 * PATIENCE
on_both_kinds = pytest.mark.parametrize("server_kind", [NATS_SERVER, "shardd-2"], indirect=True)


def run(*argv: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Runs `shardd` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "shardd", *argv],
        input=stdin,
        capture_output=True,
        timeout=RUN_S,
        check=False,
        env=_environment() | environment,
    )


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "NATS_URL"}


class Command:
    """A `shardd` that runs in the background; its output goes to files."""

    def __init__(self, directory: Path, *argv: str) -> None:
        self._out = directory / "out"
        self._err = directory / "err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "shardd", *argv],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=_environment(),
            )

    @property
    def out(self) -> bytes:
        return self._out.read_bytes()

    @property
    def err(self) -> bytes:
        return self._err.read_bytes()

    def wait_for_error_text(self, text: bytes) -> None:
        """Waits until it has said this on standard error."""
        wait_until(lambda: text in self.err or self.process.poll() is not None, repr(text), RUN_S)
        assert text in self.err, self.err

    def end(self) -> int:
        """Waits for its end and returns the exit code."""
        return self.process.wait(RUN_S)


@pytest.fixture
def background(tmp_path: Path, no_leaks: None) -> Iterator[type]:
    """``background("sub", "x")``: a command that is ended after the test."""
    commands: list[Command] = []

    class Background(Command):
        def __init__(self, *argv: str) -> None:
            directory = tmp_path / str(len(commands))
            directory.mkdir()
            commands.append(self)
            super().__init__(directory, *argv)

    yield Background
    for command in commands:
        command.process.kill()
        command.process.wait()


# --- shardd start ----------------------------------------------------------------------------


def nats_server(*argv: str) -> subprocess.CompletedProcess[bytes]:
    """Runs nats-server with flags that do not let it start."""
    path = Path(sys.executable).with_name("nats-server")
    command = str(path) if path.exists() else shutil.which("nats-server")
    assert command is not None
    return subprocess.run([command, *argv], capture_output=True, timeout=RUN_S, check=False)


@pytest.mark.parametrize(
    "argv",
    [
        ["-nope"],
        ["--PORT", "1"],
        ["-v", "-zzz"],
        ["-p"],
        ["-p", "abc"],
        ["-p", ""],
        ["-p", "08"],
        ["-p", "9223372036854775808"],
        ["-D=maybe"],
        ["-D="],
        ["---D"],
        ["-=x"],
        ["stray", "-h"],
        ["-D", "false"],
        ["-p", "-1", "-"],
        ["-p", "-1", "--", "stray"],
    ],
    ids=" ".join,
)
def test_a_wrong_flag_ends_as_on_nats_server(argv):
    theirs = nats_server(*argv)
    ours = run("start", *argv)

    assert ours.returncode == theirs.returncode
    assert ours.stderr == theirs.stderr.replace(b"nats-server", b"shardd")
    assert (b"Usage: shardd" in ours.stdout) == (b"Usage: nats-server" in theirs.stdout)


@pytest.mark.parametrize("argv", [["-h"], ["--help"], ["help"], ["-p", "-1", "-h"]], ids=" ".join)
def test_help_shows_the_usage_and_returns_0(argv):
    theirs = nats_server(*argv)
    ours = run("start", *argv)

    assert ours.returncode == theirs.returncode == 0
    assert b"-p, --port <port>" in ours.stdout
    assert b"-p, --port <port>" in theirs.stdout
    assert ours.stderr == theirs.stderr == b""


@pytest.mark.parametrize("argv", [["-v"], ["--version"], ["version"], ["-v", "x"]], ids=" ".join)
def test_the_version_is_one_line(argv):
    theirs = nats_server(*argv)
    ours = run("start", *argv)

    assert ours.returncode == theirs.returncode == 0
    assert re.fullmatch(rb"nats-server: v\d+\.\d+\.\d+\n", theirs.stdout)
    assert re.fullmatch(rb"shardd: v\d+\.\d+\.\d+\n", ours.stdout)


@pytest.mark.parametrize("flag", ["-v", "--version"])
def test_the_program_itself_shows_its_version(flag):
    result = run(flag)

    assert result.returncode == 0
    assert re.fullmatch(rb"shardd: v\d+\.\d+\.\d+\n", result.stdout)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["start", "-c", "x"], b"error opening config file: open x: no such file or directory"),
        (["-c", "x", "-t"], b"error opening config file: open x: no such file or directory"),
        (["start", "-t"], b"must specify file to validate with -t"),
        (["start", "-sl", "nope"], b'unknown signal "nope"'),
        (["signal", "stop=x"], b"could not read pid file x: no such file or directory"),
        (["start", "--tls"], b"TLS Server certificate must be present and valid"),
        (["start", "-p", "70000"], b"port: 70000 is not between 1 and 65535"),
        (["start", "--set", "bogus=1"], b'--set:1:0: unknown field "bogus"'),
        (["start", "--set", "port"], b'--set takes KEY=VALUE, not "port"'),
        (["start", "-n", "a b"], b"server_name: cannot contain spaces"),
        (["start", "--workers", "0"], b"workers: 0 is not between 1 and 60"),
        (["start", "-p", "-1", "-l", "/nonexistent/log"], b"error opening log file /nonexistent/"),
        (["zz"], b"No such command 'zz'."),
        (["pub"], b"Missing argument 'SUBJECT'."),
        (["pub", "x", "y", "--count", "0"], b"Invalid value for '--count'"),
        (["pub", "x", "y", "-H", "nocolon"], b'a header is KEY:VALUE, not "nocolon"'),
        (["reply", "x"], b"give either MESSAGE or --echo"),
        (["reply", "x", "y", "--echo"], b"give either MESSAGE or --echo"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_is_one_line_and_exit_code_1(argv, message):
    result = run(*argv)

    assert result.returncode == 1
    assert result.stdout == b""
    assert result.stderr.startswith(b"shardd: " + message)
    assert result.stderr.count(b"\n") == 1


def test_without_a_command_the_help_is_shown():
    result = run()

    assert result.returncode == 0
    for command in (b"start", b"pub", b"sub", b"request", b"reply"):
        assert re.search(rb"^  " + command + rb"\b", result.stdout, re.MULTILINE)


def test_reading_the_flags_imports_nothing_that_is_slow():
    code = (
        "import sys; from shardd.cli.main import main; main(['start', '-h']);"
        "print(*sorted({'asyncio', 'nats', 'zmq', 'msgpack', 'uvloop', 'psutil'} & {*sys.modules}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=RUN_S, check=True, text=True
    )

    assert result.stdout.splitlines()[-1] == ""


def test_a_plain_server_imports_nothing_that_only_some_servers_need():
    code = (
        "import sys; import shardd.supervisor, shardd.worker.main, shardd.cli.start;"
        "print(*sorted({'cryptography', 'websockets', 'urllib.request', 'http.client', 'aiohttp',"
        " 'psycopg', 'sqlite3', 'nats', 'psutil'} & {*sys.modules}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, timeout=RUN_S, check=True, text=True
    )

    assert result.stdout == "\n"


# --- pub, sub, request, reply ----------------------------------------------------------------


@on_both_kinds
def test_a_published_message_is_printed_by_a_subscriber(server: Broker, background):
    sub = background("sub", "cli.a.>", "-s", server.url, "--count", "3")
    sub.wait_for_error_text(b'Listening on "cli.a.>"')

    first = run("pub", "cli.a.x", "hello", NATS_URL=server.url)
    second = run(
        *("pub", "cli.a.y", "--reply", "r", "-H", "Color: red", "--count", "2", "-s", server.url),
        stdin=b"from\xffstdin",
    )

    assert first.returncode == second.returncode == 0
    assert first.stderr == b'Published 1 message of 5 bytes on "cli.a.x"\n'
    assert second.stderr == b'Published 2 messages of 10 bytes on "cli.a.y"\n'
    assert sub.end() == 0
    assert sub.out.decode().splitlines() == [
        '[#1] Received on "cli.a.x": hello',
        '[#2] Received on "cli.a.y", reply on "r": from\\xffstdin',
        "    Color: red",
        '[#3] Received on "cli.a.y", reply on "r": from\\xffstdin',
        "    Color: red",
    ]


@on_both_kinds
def test_raw_output_is_the_payload_alone(server: Broker, background):
    sub = background("sub", "cli.raw", "-s", server.url, "--count", "1", "--raw")
    sub.wait_for_error_text(b"Listening")

    run("pub", "cli.raw", "-", "-s", server.url, stdin=b"\x00\xff")

    assert sub.end() == 0
    assert sub.out == b"\x00\xff\n"


@on_both_kinds
def test_one_member_of_a_queue_group_gets_a_message(server: Broker, background):
    members = [
        background("sub", "cli.q", "-s", server.url, "--queue", "g", "--count", "1")
        for _ in range(2)
    ]
    for member in members:
        member.wait_for_error_text(b"Listening")

    run("pub", "cli.q", "x", "-s", server.url)
    wait_until(lambda: any(m.out for m in members), "one member to have printed it", RUN_S)
    run("pub", "cli.q", "y", "-s", server.url)

    assert [member.end() for member in members] == [0, 0]
    assert sorted(member.out for member in members) == [
        b'[#1] Received on "cli.q": x\n',
        b'[#1] Received on "cli.q": y\n',
    ]


@on_both_kinds
def test_a_request_is_answered_by_reply(server: Broker, background):
    fixed = background("reply", "cli.fixed", "fine", "-s", server.url, "--count", "1")
    echo = background(
        "reply", "cli.echo", "--echo", "-s", server.url, "--queue", "g", "--count", "1"
    )
    fixed.wait_for_error_text(b"Listening")
    echo.wait_for_error_text(b"Listening")

    first = run("request", "cli.fixed", "how?", "-s", server.url, "--raw")
    second = run("request", "cli.echo", "hey", "-s", server.url)

    assert (first.returncode, first.stdout) == (0, b"fine\n")
    assert second.returncode == 0
    assert re.fullmatch(rb'Answer on "_INBOX\.\S+": hey\n', second.stdout)
    assert (fixed.end(), echo.end()) == (0, 0)
    assert re.fullmatch(
        rb'\[#1\] Request on "cli.fixed", reply on "_INBOX\.\S+": how\?\n', fixed.out
    )


@on_both_kinds
def test_a_request_that_nobody_listens_to_says_so(server: Broker):
    result = run("request", "cli.nobody", "x", "-s", server.url)

    assert result.returncode == 1
    assert result.stderr == b'shardd: no responders on "cli.nobody"\n'


@on_both_kinds
def test_a_request_without_an_answer_times_out(server: Broker, background):
    sub = background("sub", "cli.mute", "-s", server.url)
    sub.wait_for_error_text(b"Listening")

    result = run("request", "cli.mute", "x", "-s", server.url, "--timeout", "0.2")

    assert result.returncode == 1
    assert result.stderr == b'shardd: no answer on "cli.mute" within 0.2 s\n'


@on_both_kinds
def test_an_interrupt_is_the_clean_end_of_a_subscription(server: Broker, background):
    sub = background("sub", "cli.int", "-s", server.url)
    sub.wait_for_error_text(b"Listening")

    sub.process.send_signal(signal.SIGINT)

    assert sub.end() == 0
    assert sub.err == b'Listening on "cli.int"\n'


@on_both_kinds
def test_a_message_that_is_too_large_is_refused(server: Broker):
    result = run("pub", "cli.large", "-s", server.url, stdin=bytes(1024 * 1024 + 1))

    assert result.returncode == 1
    assert result.stderr == b"shardd: maximum payload exceeded\n"


@on_both_kinds
@pytest.mark.parametrize("command", [["pub", "a b", "x"], ["sub", "a..b"]], ids=["pub", "sub"])
def test_a_subject_that_is_none_is_refused(server: Broker, command):
    result = run(*command, "-s", server.url)

    assert result.returncode == 1
    assert result.stderr == b"shardd: invalid subject\n"


@pytest.fixture
def refusing_url(no_leaks: None) -> Iterator[str]:
    """A server that lets one connection in and refuses all it publishes or subscribes to."""
    ends: list[socket.socket] = []

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        ends.append(connection)
        with connection.makefile("rb") as lines:
            connection.sendall(b'INFO {"max_payload":1048576,"headers":true} \r\n')
            for line in lines:
                verb, _, subject = line.rstrip().partition(b" ")
                if verb == b"PING":
                    connection.sendall(b"PONG\r\n")
                elif verb in {b"PUB", b"SUB"}:
                    kind = b"Publish" if verb == b"PUB" else b"Subscription"
                    text = b'Permissions Violation for %b to "%b"' % (kind, subject.split()[0])
                    connection.sendall(b"-ERR '%b'\r\n" % text)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(RUN_S)
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield f"nats://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(RUN_S)
        assert not thread.is_alive()
        for end in ends:
            end.close()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["pub", "no", "x"], b'permissions violation for publish to "no"'),
        (["sub", "no"], b'permissions violation for subscription to "no"'),
        (["request", "no", "x", "--timeout", "1"], b"permissions violation for subscription to"),
    ],
    ids=["pub", "sub", "request"],
)
def test_what_the_server_refuses_is_one_line(refusing_url, argv, message):
    result = run(*argv, "-s", refusing_url)

    assert result.returncode == 1
    assert result.stderr.startswith(b"shardd: " + message)
    assert result.stderr.count(b"\n") == 1


def test_a_server_that_goes_away_ends_a_subscription_with_one_line(background, no_leaks):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"nats://127.0.0.1:{listener.getsockname()[1]}"
        sub = background("sub", "x", "-s", url)
        listener.settimeout(RUN_S)
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            connection.sendall(b'INFO {"max_payload":1048576,"headers":true} \r\n')
            answers = 0
            while answers < 3:  # the PING of connecting, and two of subscribing
                if lines.readline() == b"PING\r\n":
                    connection.sendall(b"PONG\r\n")
                    answers += 1
            sub.wait_for_error_text(b"Listening")

    assert sub.end() == 1
    assert re.fullmatch(rb'Listening on "x"\nshardd: connection lost: [^\n]+\n', sub.err)


@pytest.mark.parametrize("command", [["pub", "x", "y"], ["sub", "x"], ["request", "x", "y"]])
def test_a_server_that_cannot_be_reached_is_one_line_without_the_password(command):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    result = run(*command, "-s", f"nats://me:secret@127.0.0.1:{port}")

    assert result.returncode == 1
    assert result.stderr.decode() == (
        f"shardd: could not connect to nats://127.0.0.1:{port}: connection refused\n"
    )


@pytest.mark.parametrize("url", ["", ",", "nats://127.0.0.1:99999", "http://"])
def test_an_address_that_is_none_is_one_line(url):
    result = run("pub", "x", "y", "-s", url)

    assert result.returncode == 1
    assert result.stderr.startswith(b"shardd: ")
    assert result.stderr.count(b"\n") == 1
