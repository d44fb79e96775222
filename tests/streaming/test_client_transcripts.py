"""The official Go and Node clients, unchanged, see the same at shardd as at the original server.

Each scenario is a run of a program in `tests/clients/`, which writes down what the client saw.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import pytest

from tests.support.programs import go_program, node_directory
from tests.support.streaming_server import (
    STREAMING_KINDS,
    StreamingPool,
    StreamingServer,
    require,
)
from tests.support.transcripts import judge, play

# So that a member that was killed is given up in seconds.
IMPATIENT: Final = ("-hbi", "1s", "-hbt", "500ms", "-hbf", "1")


@dataclass(frozen=True)
class Setting:
    """The server that a scenario wants: one of its own when it ends it, else a shared one."""

    flags: Sequence[str] = ()
    store: str = "FILE"
    is_own: bool = False


SHARED: Final = Setting(("-mc", "0"))
OWN: Final = Setting(is_own=True)

GO: Final = {
    "start-positions": SHARED,
    "start-on-empty-channel": SHARED,
    "max-in-flight": SHARED,
    "redelivery": SHARED,
    "late-ack": SHARED,
    "refused-subscriptions": SHARED,
    "payloads": SHARED,
    "many-subscriptions": SHARED,
    "durable-resumes": SHARED,
    "durable-over-stop": OWN,
    "durable-over-kill": OWN,
    "unsubscribe-or-close": SHARED,
    "queue-group": SHARED,
    "queue-member-leaves": SHARED,
    "queue-member-killed": Setting(("-mc", "0", *IMPATIENT)),
    "durable-queue-group": SHARED,
    "durable-queue-over-stop": OWN,
    "duplicate-client": SHARED,
    "client-replaced": SHARED,
    "refused-connections": SHARED,
    "refused-publishes": SHARED,
    "too-many-channels": Setting(("-mc", "3", "-msu", "1"), is_own=True),
    "connection-lost": OWN,
    "forgotten-by-restart": Setting(store="MEMORY", is_own=True),
    "close-after-publish": SHARED,
    "close-after-ack": SHARED,
    "thousands-in-flight": SHARED,
    "publish-over-restart": OWN,
}


def go() -> list[str]:
    return [str(go_program("go-stan"))]


def run(
    client: str, command: Callable[[], list[str]], scenario: str, setting: Setting, kind: str,
    pool: StreamingPool,
) -> None:  # fmt: skip
    """One scenario against one kind of server."""
    require(kind)
    program = command()
    if not setting.is_own:
        server = pool.get(kind, *setting.flags, store=setting.store)
        judge(client, scenario, server, play(program, scenario, server))
        return
    server = StreamingServer(kind, setting.flags, store=setting.store)
    try:
        server.start()
        judge(client, scenario, server, play(program, scenario, server))
    finally:
        server.close()


@pytest.mark.parametrize("kind", STREAMING_KINDS)
@pytest.mark.parametrize("scenario", GO)
def test_go_client(streaming_pool: StreamingPool, kind: str, scenario: str) -> None:
    run("go", go, scenario, GO[scenario], kind, streaming_pool)
