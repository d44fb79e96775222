"""Servers that a fault test may hurt: each test has its own, and it must still end cleanly."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest

from tests.support.broker import Setting, Shardd, shardd_is_missing
from tests.support.crowd import Crowd

Host = Callable[..., Crowd]


class SharddAt(Shardd):
    """A server on a port that the test names; -1 leaves the choice to the system."""

    def __init__(self, workers: int, port: int) -> None:
        super().__init__(workers)
        self._wanted_port = port

    def command(self, settings: Mapping[str, Setting], *, has_file: bool = False) -> list[str]:
        """The same command line with another port: the last flag counts."""
        return [*super().command(settings, has_file=has_file), "-p", str(self._wanted_port)]


@pytest.fixture
def host(no_leaks: None) -> Iterator[Host]:
    """``host(2, ring_size=65536)``: a crowd at a new server with that many workers, on ``port`` if
    one is named.

    After the test its connections are closed and the server is stopped, which must leave no
    process and return 0, unless the test has ended it.
    """
    if shardd_is_missing():
        pytest.fail(shardd_is_missing())
    with ExitStack() as stack:

        def start(workers: int, *, port: int = -1, **settings: Setting) -> Crowd:
            server = SharddAt(workers, port)
            server.start(settings)
            stack.callback(stop, server)
            crowd = Crowd(server)
            stack.callback(crowd.close)
            return crowd

        yield start


def stop(server: Shardd) -> None:
    """End it; a server that a test has ended is left alone."""
    if not server.is_alive():
        server.stop()
        return
    log_text = server.log_text()
    code = server.stop()
    assert code == 0, f"{server.kind} ended with {code}:\n{log_text}"
