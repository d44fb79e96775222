"""The fixtures of tests that talk to a server: which kind, which settings, and clients for it.

Servers with default settings live for the whole session, servers with settings of their own for
one module. A test that finds its shared server dead afterwards fails, and the next one gets a new
server, so one crash is one failure.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from tests.support.broker import (
    KEPT_PIDS,
    KINDS,
    NATS_SERVER,
    Broker,
    Setting,
    make_broker,
    shardd_is_missing,
)
from tests.support.wireclient import WireClient

Dial = Callable[..., WireClient]
Join = Callable[..., WireClient]
ServerWith = Callable[..., Broker]
Serve = Callable[..., Broker]

CONFIGURED_KINDS = (NATS_SERVER, "shardd-2")


class BrokerPool:
    """Started servers by kind and settings."""

    def __init__(self) -> None:
        self._brokers: dict[tuple[object, ...], Broker] = {}

    def get(self, kind: str, settings: Mapping[str, Setting]) -> Broker:
        """The running server of this kind with these settings."""
        key = (kind, *sorted(settings.items()))
        broker = self._brokers.get(key)
        if broker is None or not broker.is_alive():
            broker = make_broker(kind)
            broker.start(settings)
            KEPT_PIDS.add(broker.pid)
            self._brokers[key] = broker
        return broker

    def check(self) -> None:
        """Fail, and forget the server, if one ended by itself."""
        for key, broker in list(self._brokers.items()):
            if not broker.is_alive():
                del self._brokers[key]
                log_text = broker.log_text()
                broker.stop()
                pytest.fail(f"{broker.kind} ended during the test:\n{log_text}")

    def stop(self) -> None:
        """Stop them all; each must end cleanly."""
        codes = {}
        while self._brokers:
            _, broker = self._brokers.popitem()
            codes[broker.kind] = broker.stop()
        assert not any(codes.values()), f"a server ended with an error: {codes}"


@pytest.fixture(scope="session")
def session_pool() -> Iterator[BrokerPool]:
    """Servers with default settings."""
    pool = BrokerPool()
    yield pool
    pool.stop()


@pytest.fixture(scope="module")
def module_pool() -> Iterator[BrokerPool]:
    """Servers with settings that one module needs."""
    pool = BrokerPool()
    yield pool
    pool.stop()


@pytest.fixture(params=KINDS)
def server_kind(request: pytest.FixtureRequest, allow_missing: bool) -> str:
    """Each kind of server in turn; a number is shardd's workers."""
    return _startable(str(request.param), allow_missing)


@pytest.fixture(
    params=[
        kind if kind in CONFIGURED_KINDS else pytest.param(kind, marks=pytest.mark.slow)
        for kind in KINDS
    ]
)
def server_with_kind(request: pytest.FixtureRequest, allow_missing: bool) -> str:
    """The same; other numbers of workers than two in the long run only, since each setting costs a
    server of its own."""
    return _startable(str(request.param), allow_missing)


def _startable(kind: str, allow_missing: bool) -> str:
    if kind != NATS_SERVER and shardd_is_missing():
        if allow_missing:
            pytest.skip("shardd cannot be started here")
        pytest.fail(shardd_is_missing())
    return kind


@pytest.fixture
def server(server_kind: str, session_pool: BrokerPool, no_leaks: None) -> Iterator[Broker]:
    """A server with default settings, shared with other tests: use subjects of your own."""
    yield session_pool.get(server_kind, {})
    session_pool.check()


@pytest.fixture
def server_with(
    server_with_kind: str, module_pool: BrokerPool, no_leaks: None
) -> Iterator[ServerWith]:
    """``server_with(max_payload=10)``: a server with these settings, shared in this module."""

    def get(**settings: Setting) -> Broker:
        return module_pool.get(server_with_kind, settings)

    yield get
    module_pool.check()


@pytest.fixture(params=CONFIGURED_KINDS)
def configured_kind(request: pytest.FixtureRequest) -> str:
    """The kinds of servers that configuration files are tried on: each test starts its own."""
    return str(request.param)


@pytest.fixture
def serve(configured_kind: str, no_leaks: None) -> Iterator[Serve]:
    """``serve(text, *flags)``: a server of this test's own with this configuration file."""
    brokers: list[Broker] = []

    def start(text: str, *flags: str) -> Broker:
        broker = make_broker(configured_kind)
        brokers.append(broker)
        broker.start_text(text, *flags)
        return broker

    yield start
    for broker in brokers:
        if broker.is_alive():
            broker.stop()


@pytest.fixture
def dial(no_leaks: None) -> Iterator[Dial]:
    """``dial(server)``: a connection that has read INFO and sent nothing; closed after the test."""
    clients: list[WireClient] = []

    def open_client(broker: Broker, **options: Any) -> WireClient:
        client = WireClient(broker.host, broker.port, **options)
        clients.append(client)
        return client

    yield open_client
    for client in clients:
        client.finish()


@pytest.fixture
def raw(server: Broker, dial: Dial) -> WireClient:
    """One connection to the default server that has sent nothing yet."""
    return dial(server)


@pytest.fixture
def join(server: Broker, dial: Dial) -> Join:
    """``join(headers=True)``: one more connection to the default server that is past CONNECT."""

    def open_client(**options: Any) -> WireClient:
        return dial(server).connect(**options)

    return open_client


@pytest.fixture
def rng(seed: int, request: pytest.FixtureRequest) -> random.Random:
    """A generator of this test's own; its seed is printed when the test fails."""
    text = f"{seed}:{request.node.name}"
    print(f"random seed {seed} (SHARDD_TESTS_SEED={seed} repeats it)")
    return random.Random(text)
