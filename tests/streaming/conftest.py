"""Servers for the judges: three kinds, with options, shared where a test leaves them whole.

The default run judges shardd with two streaming workers; what the original said is on record. The
original itself and shardd with one worker come with `-m slow`.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.support.broker import KEPT_PIDS
from tests.support.streaming_server import (
    JUDGED_KINDS,
    SHARDD_POOL,
    StreamingServer,
    make_streaming_server,
)
from tests.support.streaming_wire import StreamingWire

Judged = Callable[..., StreamingServer]
Wire = Callable[..., StreamingWire]

# Channels below `few` hold five messages, channels below `lonely` take one subscription.
SHARED_OPTIONS: Final = """store_limits { max_channels: 0
  channels { "few.*": { max_msgs: 5 }, "lonely.*": { max_subs: 1 } } }"""


@pytest.fixture(
    params=[
        kind if kind == SHARDD_POOL else pytest.param(kind, marks=pytest.mark.slow)
        for kind in JUDGED_KINDS
    ]
)
def judged_kind(request: pytest.FixtureRequest) -> str:
    """Each kind of server in turn."""
    return str(request.param)


class Pool:
    """Started servers by kind and options, for tests that use names of their own."""

    def __init__(self, directory: Callable[[], Path]) -> None:
        self._directory = directory
        self._servers: dict[tuple[str, str], StreamingServer] = {}

    def get(self, kind: str, options: str) -> StreamingServer:
        """The running server with a store in files and these options."""
        server = self._servers.get((kind, options))
        if server is None or not server.is_alive():
            server = make_streaming_server(kind, options, self._directory() / "store")
            server.start()
            KEPT_PIDS.add(server.pid)
            self._servers[kind, options] = server
        return server

    def close(self) -> None:
        """Stop them; each must end cleanly."""
        codes = {key: server.stop() for key, server in self._servers.items()}
        assert not any(codes.values()), f"a server ended with an error: {codes}"


@pytest.fixture(scope="session")
def judged_pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """Servers that live as long as the run."""
    pool = Pool(lambda: tmp_path_factory.mktemp("judged"))
    yield pool
    pool.close()


@pytest.fixture
def shared(judged_kind: str, judged_pool: Pool, no_leaks: None) -> Judged:
    """``shared(options)``: a server that other tests use too."""
    return lambda options="": judged_pool.get(judged_kind, options)


@pytest.fixture
def own(judged_kind: str, tmp_path: Path, no_leaks: None) -> Iterator[Judged]:
    """``own(options)``: a started server of this test's own, which it may end;
    ``is_durable=False`` for a store in memory."""
    servers: list[StreamingServer] = []

    def start(options: str = "", *, is_durable: bool = True) -> StreamingServer:
        data = tmp_path / f"store-{len(servers)}" if is_durable else None
        server = make_streaming_server(judged_kind, options, data)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def wire(shared: Judged) -> Iterator[Wire]:
    """``wire()``: a client of the shared server that has not connected; closed after the test.
    ``wire(server)`` is one of another server."""
    with ExitStack() as stack:

        def dial(server: StreamingServer | None = None) -> StreamingWire:
            return stack.enter_context(StreamingWire(server or shared(SHARED_OPTIONS)))

        yield dial
