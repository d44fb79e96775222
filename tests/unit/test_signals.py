"""Which process `shardd signal` finds, and which it leaves alone."""

import os
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardd.cli import servers, signals
from shardd.errors import ConfigError

DEAD_PID = 2**22 + 1  # beyond the largest pid that Linux gives


@pytest.fixture
def caught() -> Iterator[list[int]]:
    """The signals of the user's kind that this process got."""
    numbers: list[int] = []

    def catch(number: int, _: object) -> None:
        numbers.append(number)

    old = {
        number: signal.signal(number, catch)
        for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
    }
    yield numbers
    for number, handler in old.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("stop", signal.SIGKILL),
        ("quit", signal.SIGINT),
        ("term", signal.SIGTERM),
        ("reopen", signal.SIGUSR1),
        ("reload", signal.SIGHUP),
        ("ldm", signal.SIGUSR2),
    ],
)
def test_commands_mean_the_signals_of_nats_server(name: str, number: int) -> None:
    assert signals.COMMANDS[name] == number


def test_a_pid_gets_its_signal(caught: list[int]) -> None:
    for command in ("reopen", "ldm", "reload"):
        assert signals.send(f"{command}={os.getpid()}") == 0
    assert caught == [signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP]


@pytest.mark.parametrize("form", ["{}", "{}\n", " {}\n\n"])
def test_a_pid_file_names_the_process(tmp_path: Path, caught: list[int], form: str) -> None:
    path = tmp_path / "pid"
    path.write_text(form.format(os.getpid()))
    assert signals.send(f"reload={path}") == 0
    assert caught == [signal.SIGHUP]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bogus", 'unknown signal "bogus"'),
        ("", 'unknown signal ""'),
        ("=5", 'unknown signal ""'),
        ("LDM", 'unknown signal "LDM"'),
        (f"ldm={DEAD_PID}", f'signal "ldm" {DEAD_PID}: no such process'),
        ("term=0", "invalid pid: 0"),
        (f"term={2**31}", f"invalid pid: {2**31}"),
        ("term=-5", "could not read pid file -5: no such file or directory"),
        ("term=/no/such", "could not read pid file /no/such: no such file or directory"),
    ],
)
def test_what_cannot_be_is_one_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        signals.send(text)
    assert str(refusal.value) == message


@pytest.mark.parametrize("text", ["", "x12", "-12", "1 2", "12x", "0", "٣"])
def test_a_file_without_a_pid_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "pid"
    path.write_text(text)
    with pytest.raises(ConfigError, match="invalid pid"):
        signals.send(f"term={path}")


@pytest.mark.parametrize(
    "line",
    [
        "shardd start",
        "shardd start -p 4333 -c some.conf",
        "shardd -c some.conf",
        "/usr/local/bin/shardd start",
        "/usr/bin/python3.11 /usr/local/bin/shardd start",
        "python -m shardd start",
        "python3 -X dev -W error -B -m shardd start -D",
        "python -m shardd -p -1",
        "shardd start -n test -l signal",
    ],
)
def test_servers_are_found_however_they_were_started(line: str) -> None:
    assert servers.is_server(shlex.split(line))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "shardd",
        "shardd signal reload",
        "shardd start -sl reload",
        "shardd start --signal=reload",
        "shardd -c some.conf -t",
        "shardd -v",
        "shardd start --help",
        "shardd sub start",
        "shardd pub a start",
        "python -m shardd reply a start",
        "python -m pytest shardd start",
        "python -m",
        "python",
        "python other.py shardd start",
        "vim /etc/shardd start",
        "tail -f shardd start",
        "nats-server start",
        "bash -c 'shardd start'",
    ],
)
def test_other_processes_are_no_servers(line: str) -> None:
    assert not servers.is_server(shlex.split(line))


class FakeProcess:
    """What psutil says about a process."""

    def __init__(self, pid: int, parent: int, line: str) -> None:
        self.info = {"pid": pid, "ppid": parent, "cmdline": shlex.split(line) or None}


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> list[FakeProcess]:
    """The processes of the machine; the test fills them in."""
    processes: list[FakeProcess] = []
    monkeypatch.setattr("psutil.process_iter", lambda _: iter(processes))
    return processes


def test_the_only_server_is_found_and_none_of_its_workers(
    running: list[FakeProcess], caught: list[int]
) -> None:
    own = os.getpid()
    running += [
        FakeProcess(DEAD_PID, own, "shardd start"),
        FakeProcess(own, 1, "shardd start"),
        FakeProcess(DEAD_PID + 1, own, "shardd start"),
        FakeProcess(DEAD_PID + 2, 1, "shardd sub a"),
        FakeProcess(DEAD_PID + 3, 1, ""),
    ]
    assert signals.send("reload") == 0
    assert signals.send("reload=") == 0
    assert caught == [signal.SIGHUP, signal.SIGHUP]


def test_of_several_servers_none_gets_the_signal(
    running: list[FakeProcess], caught: list[int]
) -> None:
    own = os.getpid()
    running += [
        FakeProcess(DEAD_PID, 1, "shardd start"),
        FakeProcess(own, 1, "shardd start"),
        FakeProcess(DEAD_PID + 1, own, "shardd start"),
    ]
    with pytest.raises(ConfigError) as refusal:
        signals.send("reload")
    assert str(refusal.value) == f"multiple shardd processes running:\n{own}\n{DEAD_PID}"
    assert caught == []


def test_no_server_is_an_error(running: list[FakeProcess]) -> None:
    with pytest.raises(ConfigError, match=r"^no shardd processes running$"):
        signals.send("term")
