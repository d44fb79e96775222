"""New connections go where there are fewest: handed over, and never lost on the way."""

import signal
import socket
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

from tests.support.broker import Shardd
from tests.support.waiting import WAIT_S, wait_until
from tests.support.wireclient import WireClient


@pytest.fixture
def balanced(request: pytest.FixtureRequest) -> Iterator[Shardd]:
    """A server that balances, with as many workers as the test asks for."""
    server = Shardd(request.param)
    server.start({"balance": True, "heartbeat_silence": "2s"})
    yield server
    server.stop()


def worker_of(client: WireClient, server: Shardd) -> int:
    """The index of the worker that serves this client."""
    return int((client.info["client_id"] - 1) % server.workers)


@pytest.mark.parametrize("balanced", [2, 4], indirect=True)
def test_connections_opened_one_by_one_are_spread_evenly(balanced: Shardd) -> None:
    clients = [WireClient(balanced.host, balanced.port) for _ in range(balanced.workers * 8)]
    try:
        spread = Counter(worker_of(client, balanced) for client in clients)
        assert spread == dict.fromkeys(range(balanced.workers), 8)
        for client in clients:
            client.ping()
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize("balanced", [2], indirect=True)
def test_a_connection_handed_to_a_worker_that_dies_is_served_by_its_successor(
    balanced: Shardd,
) -> None:
    # Eight connections on each worker; then those of worker 0 leave, so that it is the emptier one.
    clients = [WireClient(balanced.host, balanced.port) for _ in range(16)]
    for client in clients:
        if worker_of(client, balanced) == 0:
            client.close()
    staying = [client for client in clients if worker_of(client, balanced) == 1]
    victim = balanced.worker_processes()[0]
    wait_until(lambda: len(victim.net_connections("tcp")) == 1, "worker 0 to have no clients")
    victim.send_signal(signal.SIGSTOP)
    # About half of these are accepted by worker 1, which hands them to worker 0.
    address = (balanced.host, balanced.port)
    waiting = [socket.create_connection(address, timeout=WAIT_S) for _ in range(6)]
    try:
        wait_until(lambda: not victim.is_running() or is_zombie(victim), "the stopped worker's end")
        for connection in waiting:
            assert connection.recv(65_536).startswith(b"INFO {")
            connection.sendall(b"PING\r\n")
            assert connection.recv(64) == b"PONG\r\n"
        for client in staying:
            client.ping()
    finally:
        for client in staying:
            client.close()
        for connection in waiting:
            connection.close()


def is_zombie(process: psutil.Process) -> bool:
    """Whether the process has ended and waits to be reaped."""
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
