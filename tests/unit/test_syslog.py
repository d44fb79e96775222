"""The log to syslog, with the test as the daemon."""

import logging
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardd import log
from shardd.config.core import Config
from shardd.errors import BootError, ConfigError
from shardd.syslog import Syslog

logger = logging.getLogger("shardd.test")


class Daemon:
    """A socket that takes datagrams."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        messages = []
        try:
            while True:
                messages.append(self.socket.recv(65536).decode())
        except BlockingIOError:
            return messages

    def close(self) -> None:
        self.socket.close()
        self.path.unlink(missing_ok=True)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    made = Daemon(tmp_path / "log")
    yield made
    log.close()
    made.close()


def configure(daemon: Daemon, **settings: object) -> None:
    config = Config(remote_syslog=f"unix://{daemon.path}", **settings)  # type: ignore[arg-type]
    config.validate()
    log.configure(config)


def test_each_line_has_its_priority_and_nothing_of_a_peer_s_making(daemon: Daemon) -> None:
    configure(daemon)
    logger.info("a\n<0>b\x1b[2J")
    logger.warning("w")
    logger.critical("c")

    heard = daemon.heard()
    head = re.compile(rf"<(\d+)>\w{{3}} [ \d]\d \d\d:\d\d:\d\d shardd\[{os.getpid()}\]: (.*)")
    matches = [head.fullmatch(each) for each in heard]
    assert [match.groups() for match in matches if match] == [
        ("29", r"a\n<0>b\x1b[2J"),
        ("28", "w"),
        ("26", "c"),
    ]


def test_json_goes_there_as_well(daemon: Daemon) -> None:
    configure(daemon, log_format="json")
    logger.info("x")

    assert daemon.heard()[0].endswith('"message":"x"}')


def test_a_log_file_goes_first(daemon: Daemon, tmp_path: Path) -> None:
    configure(daemon, log_file=str(tmp_path / "file"))
    logger.info("x")

    assert daemon.heard() == []
    assert "x" in (tmp_path / "file").read_text()


def test_a_daemon_that_does_not_read_costs_lines_and_they_are_counted(daemon: Daemon) -> None:
    configure(daemon)
    for number in range(1000):
        logger.info("%d", number)
    taken = len(daemon.heard())
    logger.info("on")

    first, second = daemon.heard()
    assert first.endswith(f" {1000 - taken} lines were dropped: the log daemon did not read")
    assert second.endswith(": on")


def test_a_daemon_that_was_restarted_is_found_again(daemon: Daemon) -> None:
    configure(daemon)
    daemon.close()
    logger.info("lost")
    again = Daemon(daemon.path)
    logger.info("kept")

    assert [each.rpartition(" ")[2] for each in again.heard()] == ["kept"]
    again.close()


def test_a_daemon_elsewhere_hears_which_host_speaks() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as daemon:
        daemon.bind(("127.0.0.1", 0))
        syslog = Syslog(f"udp://127.0.0.1:{daemon.getsockname()[1]}")
        syslog.write(logging.ERROR, "text")
        syslog.close()
        message = daemon.recv(65536).decode()

    pattern = rf"<27>\d{{4}}-\d\d-\d\dT[\d:]{{8}}Z {re.escape(socket.gethostname())} shardd\[\d+\]"
    assert re.fullmatch(rf"{pattern}: text", message)


def test_without_a_daemon_the_server_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(BootError, match=r"error connecting to syslog unix:///.*: No such file"):
        Syslog(f"unix://{tmp_path}/nobody")
    with pytest.raises(BootError, match="error connecting to syslog"):
        Syslog("udp://127.0.0.1:99999")


@pytest.mark.parametrize("address", ["tcp://localhost:514", "localhost"])
def test_what_would_have_to_be_waited_for_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="remote_syslog: shardd serves udp://"):
        Config(remote_syslog=address).validate()
