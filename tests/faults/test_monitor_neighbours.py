"""Whoever asks the monitor badly, or kills it, harms neither clients nor others who ask."""

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Final

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from shardd import limits
from tests.support.broker import Shardd
from tests.support.fixtures import Dial
from tests.support.waiting import wait_until
from tests.support.watched import document, fetch

CONFIG: Final = 'http: "127.0.0.1:-1"\n'


@pytest.fixture
def server(no_leaks: None) -> Iterator[Shardd]:
    broker = Shardd(2)
    broker.start_text(CONFIG)
    yield broker
    broker.stop()


def monitor_pid(broker: Shardd) -> int:
    """Of the process that answers now."""
    rows = document(broker, "processz")["processes"]
    return next(int(row["pid"]) for row in rows if row["name"] == "monitor")


@contextlib.contextmanager
def visitors(
    broker: Shardd, count: int, *, source: str = "127.0.0.1"
) -> Iterator[list[socket.socket]]:
    """Connections to monitoring from an address."""
    host, _, port = broker.monitoring.rpartition("/")[2].rpartition(":")
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(
                socket.create_connection((host, int(port)), timeout=20, source_address=(source, 0))
            )
            for _ in range(count)
        ]


class Flow:
    """A publisher and a subscriber whose messages go on."""

    def __init__(self, broker: Shardd, dial: Dial) -> None:
        self._taker = dial(broker).connect()
        self._taker.subscribe(b"flow", b"1")
        self._giver = dial(broker).connect()
        self._sent = 0

    def go_on(self, count: int = 50) -> None:
        for _ in range(count):
            self._giver.publish(b"flow", b"%d" % self._sent)
            self._taker.expect_msg(b"flow", b"1", b"%d" % self._sent)
            self._sent += 1


def test_a_monitor_that_dies_is_replaced_while_messages_go_on(server: Shardd, dial: Dial) -> None:
    flow = Flow(server, dial)
    flow.go_on()
    pid = monitor_pid(server)
    psutil.Process(pid).kill()
    flow.go_on()

    def is_back() -> bool:
        flow.go_on(1)
        with contextlib.suppress(OSError):
            return monitor_pid(server) != pid
        return False

    wait_until(is_back, "another monitor")
    assert document(server, "varz")["in_msgs"] >= 100
    assert document(server, "connz")["total"] == 2


def test_garbage_is_refused_and_others_are_answered(server: Shardd, dial: Dial) -> None:
    flow = Flow(server, dial)
    texts = [
        b"\x00" * 5000,
        b"NOPE\r\n\r\n",
        b"GET /varz HTTP/9.9\r\n\r\n",
        b"GET /varz HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /varz HTTP/1.1\r\n" + b"X: y\r\n" * 10_000 + b"\r\n",
        b"POST /varz HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\n\r\n" + b"z" * 100_000,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\xff" * 500,
    ]
    for text in texts:
        with visitors(server, 1) as (visitor,), contextlib.suppress(OSError):
            visitor.sendall(text)
            visitor.shutdown(socket.SHUT_WR)
            while visitor.recv(65_536):
                pass
        flow.go_on(5)
        assert document(server, "healthz") == {"status": "ok"}
    assert "Traceback" not in server.log_text()


def test_a_crowd_of_silent_visitors_leaves_room_for_others(server: Shardd, dial: Dial) -> None:
    flow = Flow(server, dial)
    pid = monitor_pid(server)
    with visitors(server, 2 * limits.MONITORING_CONNECTIONS_MAX, source="127.0.0.2"):
        assert document(server, "varz")["connections"] == 2
        flow.go_on()

        def is_bounded() -> bool:
            connections = psutil.Process(pid).net_connections("tcp")
            known = [each for each in connections if each.status == "ESTABLISHED"]
            return len(known) <= limits.MONITORING_CONNECTIONS_MAX + 1

        wait_until(is_bounded, "the crowd to be bounded")
    assert monitor_pid(server) == pid


def test_a_visitor_that_asks_without_end_and_reads_nothing(server: Shardd, dial: Dial) -> None:
    flow = Flow(server, dial)
    pid = monitor_pid(server)
    before = psutil.Process(pid).memory_info().rss
    with visitors(server, 8, source="127.0.0.2") as crowd:
        until = time.monotonic() + 1.0
        for visitor in crowd:
            visitor.setblocking(False)
        while time.monotonic() < until:
            for visitor in crowd:
                with contextlib.suppress(OSError):
                    visitor.send(b"GET /varz HTTP/1.1\r\nHost: x\r\n\r\n" * 500)
            flow.go_on(1)
        assert document(server, "healthz") == {"status": "ok"}
        flow.go_on()
    assert psutil.Process(pid).memory_info().rss - before < 100 * 1024 * 1024
    assert monitor_pid(server) == pid


def test_metrics_agree_with_what_was_sent(server: Shardd, dial: Dial) -> None:
    flow = Flow(server, dial)
    flow.go_on(40)

    def values() -> dict[str, float]:
        text = fetch(server, "metrics")[1]
        sums: dict[str, float] = {}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                sums[sample.name] = sums.get(sample.name, 0.0) + sample.value
        return sums

    found = values()
    assert found["shardd_messages_received_total"] == 40
    assert found["shardd_messages_sent_total"] == 40
    assert found["shardd_bytes_sent_total"] == sum(len(b"%d" % number) for number in range(40))
    assert found["shardd_connections"] == 2
    assert found["shardd_subscriptions"] == 1
    assert found["shardd_ready"] == 1
    assert found["shardd_account_messages_received_total"] == 40
    varz, rows = document(server, "varz"), document(server, "processz")["processes"]
    assert varz["in_msgs"] == sum(row["messages_in"] for row in rows) == 40
    assert {row["name"] for row in rows} == {"worker-0", "worker-1", "monitor", "supervisor"}
