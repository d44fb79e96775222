"""The fixtures of tests that talk to a streaming server: which kind, and shared or their own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.broker import KEPT_PIDS
from tests.support.streaming_server import (
    ORIGINAL,
    STREAMING_KINDS,
    StreamingServer,
    make_streaming_server,
)

ServeStreaming = Callable[..., StreamingServer]

# The first test of a run may have to build the original server.
_BUILDING_S = 660


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that may have to build the original the time for it."""
    for item in items:
        if "streaming_kind" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(_BUILDING_S))


@pytest.fixture(scope="session")
def streaming_pool() -> Iterator[dict[str, StreamingServer]]:
    """Servers with default options and a store in memory, by kind."""
    servers: dict[str, StreamingServer] = {}
    yield servers
    codes = {kind: server.stop() for kind, server in servers.items()}
    assert not any(codes.values()), f"a server ended with an error: {codes}"


@pytest.fixture(
    params=[
        pytest.param(kind, marks=pytest.mark.slow) if kind == ORIGINAL else kind
        for kind in STREAMING_KINDS
    ]
)
def streaming_kind(request: pytest.FixtureRequest) -> str:
    """Each kind of streaming server in turn; the original in the long run only, since a clean tree
    has to build it first."""
    return str(request.param)


@pytest.fixture
def streaming_server(
    streaming_kind: str, streaming_pool: dict[str, StreamingServer], no_leaks: None
) -> Iterator[StreamingServer]:
    """A server shared with other tests: use channels and client ids of your own."""
    if streaming_kind not in streaming_pool:
        server = make_streaming_server(streaming_kind, "store_limits { max_channels: 0 }")
        server.start()
        KEPT_PIDS.add(server.pid)
        streaming_pool[streaming_kind] = server
    yield streaming_pool[streaming_kind]
    if not streaming_pool[streaming_kind].is_alive():
        server = streaming_pool.pop(streaming_kind)
        log_text = server.log_text()
        server.stop()
        pytest.fail(f"{streaming_kind} ended during the test:\n{log_text}")


@pytest.fixture
def serve_streaming(
    streaming_kind: str, tmp_path: Path, no_leaks: None
) -> Iterator[ServeStreaming]:
    """``serve_streaming(options)``: a server of this test's own with a store in files, started;
    ``is_durable=False`` for one in memory."""
    servers: list[StreamingServer] = []

    def start(options: str = "", *, is_durable: bool = True) -> StreamingServer:
        data = tmp_path / f"store-{len(servers)}" if is_durable else None
        server = make_streaming_server(streaming_kind, options, data)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        if server.is_alive():
            server.stop()
