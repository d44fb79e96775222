"""The official Go and Node clients, unchanged, see the same at shardd as at the original server.

Each scenario is a run of a program in `tests/clients/`, which writes down what the client saw.
"""

from collections.abc import Iterable
from typing import Any, Final

import pytest

from tests.streaming.conftest import Judged
from tests.support.programs import go_program, node_directory
from tests.support.transcripts import judge, play

MANY: Final = "store_limits { max_channels: 0 }"
# So that a member that was killed is given up in seconds.
IMPATIENT: Final = f'{MANY}\nhb_interval: "500ms", hb_timeout: "2s", hb_fail_count: 1'
FEW: Final = "store_limits { max_channels: 3, max_subs: 1 }"

# Scenarios that leave the server whole, with its options.
SHARED: Final = {
    "start-positions": MANY,
    "start-on-empty-channel": MANY,
    "max-in-flight": MANY,
    "redelivery": MANY,
    "late-ack": MANY,
    "refused-subscriptions": MANY,
    "payloads": MANY,
    "many-subscriptions": MANY,
    "durable-resumes": MANY,
    "unsubscribe-or-close": MANY,
    "queue-group": MANY,
    "queue-member-leaves": MANY,
    "queue-member-killed": IMPATIENT,
    "durable-queue-group": MANY,
    "duplicate-client": MANY,
    "client-replaced": MANY,
    "refused-connections": MANY,
    "refused-publishes": MANY,
    "close-after-publish": MANY,
    "close-after-ack": MANY,
    "thousands-in-flight": MANY,
}
# Scenarios that end the server, or fill it.
OWN: Final = (
    "durable-over-stop",
    "durable-over-kill",
    "durable-queue-over-stop",
    "too-many-channels",
    "connection-lost",
    "forgotten-by-restart",
    "publish-over-restart",
)
# What the program for Node does not go through.
GO_ONLY: Final = {
    "start-on-empty-channel",
    "late-ack",
    "many-subscriptions",
    "queue-member-leaves",
    "refused-connections",
    "close-after-ack",
    "durable-over-kill",
    "durable-queue-over-stop",
    "too-many-channels",
    "publish-over-restart",
}
# What the program for Node goes through in the long run only: seconds of waiting for what the
# server has shown to the one for Go.
NODE_SLOW: Final = {"connection-lost", "queue-member-killed", "redelivery", "durable-over-stop"}


def played(scenarios: Iterable[str]) -> list[Any]:
    """The client and the scenario of each test."""
    both = [(client, each) for each in scenarios for client in ("go", "node")]
    return [
        pytest.param(
            client, each, marks=pytest.mark.slow if client == "node" and each in NODE_SLOW else ()
        )
        for client, each in both
        if client == "go" or each not in GO_ONLY
    ]


def command(client: str) -> list[str]:
    """What runs the program of one client."""
    if client == "go":
        return [str(go_program("go-stan"))]
    return ["node", str(node_directory("node-stan") / "trial.js")]


@pytest.mark.parametrize(("client", "scenario"), played(SHARED))
def test_what_a_client_sees(shared: Judged, client: str, scenario: str) -> None:
    program = command(client)
    server = shared(SHARED[scenario])
    judge(client, scenario, server, play(program, scenario, server))


@pytest.mark.parametrize(("client", "scenario"), played(OWN))
def test_what_a_client_sees_of_restarts(own: Judged, client: str, scenario: str) -> None:
    program = command(client)
    options = FEW if scenario == "too-many-channels" else ""
    server = own(options, is_durable=scenario != "forgotten-by-restart")
    judge(client, scenario, server, play(program, scenario, server))
