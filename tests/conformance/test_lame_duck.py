"""A server that is about to leave: what clients hear, when they go, and how it ends."""

import os
import signal
import socket

import pytest

from tests.support.broker import Broker
from tests.support.fixtures import Dial, Serve
from tests.support.waiting import wait_until
from tests.support.wireclient import parse_info

QUICK = 'lame_duck_grace_period: "1s"\nlame_duck_duration: "30s"\n'


def is_refused(server: Broker) -> bool:
    """Whether nobody accepts connections any more."""
    try:
        socket.create_connection((server.host, server.port)).close()
    except ConnectionRefusedError:
        return True
    return False


def test_clients_that_listen_are_told_and_then_all_go(serve: Serve, dial: Dial) -> None:
    server = serve(QUICK)
    new, old = dial(server).connect(protocol=1), dial(server).connect()
    os.kill(server.pid, signal.SIGUSR2)
    assert parse_info(new.expect_line())["ldm"] is True
    wait_until(lambda: is_refused(server), "every worker to accept nobody more")
    new.subscribe(b"a", b"1")  # it still serves
    old.publish(b"a", b"x")
    new.expect_msg(b"a", b"1", b"x")
    new.expect_closed()
    old.expect_closed()
    wait_until(lambda: not server.is_alive(), "the end")
    assert server.stop() == 0


def test_without_clients_it_ends_at_once(serve: Serve) -> None:
    server = serve(QUICK)
    os.kill(server.pid, signal.SIGUSR2)
    wait_until(lambda: not server.is_alive(), "the end")
    assert server.stop() == 0


def test_a_term_is_ignored_and_an_interrupt_is_not(serve: Serve, dial: Dial) -> None:
    server = serve('lame_duck_grace_period: "20s"\nlame_duck_duration: "40s"\n')
    client = dial(server).connect(protocol=1)
    os.kill(server.pid, signal.SIGUSR2)
    assert parse_info(client.expect_line())["ldm"] is True
    os.kill(server.pid, signal.SIGTERM)
    wait_until(lambda: 'Trapped "terminated" signal' in server.log_text(), "the signal")
    client.ping()
    os.kill(server.pid, signal.SIGINT)
    client.expect_closed()
    wait_until(lambda: not server.is_alive(), "the end")
    assert server.stop() == 0


def test_it_takes_at_least_half_a_minute(serve: Serve) -> None:
    with pytest.raises(AssertionError, match="minimum is 30 seconds"):
        serve('lame_duck_duration: "10s"\n')
