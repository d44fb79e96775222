"""Thousands who guess: nothing leaks, nobody else is kept waiting, no log holds a secret."""

import socket
from concurrent.futures import ThreadPoolExecutor

import bcrypt
import psutil

from tests.support.broker import Broker, make_broker
from tests.support.waiting import wait_until
from tests.support.wireclient import WireClient

HASH = bcrypt.hashpw(b"right-secret", bcrypt.gensalt(8)).decode()
TEXT = f"""
authorization {{ users: [
  {{user: plain, password: right-secret}}
  {{user: hashed, password: "{HASH}"}}
] }}
"""
GUESSES = (
    b'{"user":"plain","pass":"wrong-secret"}',
    b'{"user":"nobody","pass":"wrong-secret"}',
    b'{"auth_token":"wrong-secret"}',
    b'{"jwt":"wrong-secret","sig":"wrong-secret"}',
)


def guess(broker: Broker, options: bytes) -> bytes:
    """What one guess is told."""
    with socket.create_connection((broker.host, broker.port), timeout=30) as client:
        client.sendall(b"CONNECT " + options + b"\r\n")
        data = b""
        while more := client.recv(4096):
            data += more
        return data


def descriptors(broker: Broker) -> int:
    return sum(process.num_fds() for process in broker.processes())


def memory(broker: Broker) -> int:
    return sum(psutil.Process(process.pid).memory_info().rss for process in broker.processes())


def test_thousands_of_wrong_credentials_harm_nobody() -> None:
    broker = make_broker("shardd-2")
    broker.start_text(TEXT, "-DV")
    try:
        good = WireClient(broker.host, broker.port)
        good.connect(user="plain", **{"pass": "right-secret"})
        good.subscribe(b"a", b"1")
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: guess(broker, GUESSES[n % 4]), range(400)))
            before, used = descriptors(broker), memory(broker)
            jobs = [pool.submit(guess, broker, GUESSES[n % 4]) for n in range(4000)]
            jobs += [
                pool.submit(guess, broker, b'{"user":"hashed","pass":"wrong-secret"}')
                for _ in range(100)
            ]
            messages = 0
            while not all(job.done() for job in jobs):
                good.publish(b"a", b"x")
                good.expect_msg(b"a", b"1", b"x")
                messages += 1
            for job in jobs:
                assert job.result().endswith(b"-ERR 'Authorization Violation'\r\n")
        assert messages > 100
        wait_until(lambda: descriptors(broker) <= before, "every descriptor to be closed")
        assert memory(broker) - used < 20_000_000
        good.ping()
        good.close()
        log = broker.log_text()
        assert "authentication error" in log
        assert "wrong-secret" not in log
        assert "right-secret" not in log
    finally:
        broker.stop()
