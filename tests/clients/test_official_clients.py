"""The official clients for Node and Go, unchanged, let in in every way, and refused.

Each program goes through all scenarios in one run; each server has one way in. What a client sees
is the same on shardd as on nats-server.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import nkeys
import pytest

from shardd.auth.nkeys import KeyRole
from tests.support import certificates
from tests.support.broker import free_port
from tests.support.fixtures import Serve
from tests.support.nkeys import KeyPair
from tests.support.programs import try_go, try_node

KEY: Final = KeyPair(KeyRole.USER, 11)
OTHER: Final = nkeys.encode_seed((12).to_bytes(32, "big"), nkeys.PREFIX_BYTE_USER).decode()
SEED: Final = nkeys.encode_seed((11).to_bytes(32, "big"), nkeys.PREFIX_BYTE_USER).decode()

SEEN: Final = {
    "answer": "hello",
    "large": 200_000,
    "header": "trial",
    "worked": 100,
    "nobody": "NoResponders",
    "closed": True,
}


def encrypted(more: str = "") -> str:
    """A `tls` block with the tests' certificates."""
    server, authority = certificates.server(), certificates.authority()
    return f"""tls {{ cert_file: '{server.certificate}', key_file: '{server.key}',
        ca_file: '{authority.certificate}' {more} }}"""


def trusting() -> dict[str, Any]:
    return {"ca": str(certificates.authority().certificate)}


def known() -> dict[str, Any]:
    """With a certificate of its own."""
    own = certificates.authority().issue("official")
    return {**trusting(), "cert": str(own.certificate), "key": str(own.key)}


@dataclass(frozen=True)
class Way:
    """One way in: the configuration, what a client says that is let in, and what others say."""

    text: Callable[[], str]
    good: Callable[[], dict[str, Any]] = field(default=dict)
    bad: Sequence[Callable[[], dict[str, Any]]] = ()


WAYS: Final = {
    "open": Way(lambda: ""),
    "token": Way(
        lambda: "authorization { token: t0ken }",
        lambda: {"token": "t0ken"},
        [dict, lambda: {"token": "other"}],
    ),
    "user": Way(
        lambda: "authorization { user: me, password: pw }",
        lambda: {"user": "me", "pass": "pw"},
        [dict, lambda: {"user": "me", "pass": "no"}],
    ),
    "nkey": Way(
        lambda: f"authorization {{ users: [ {{nkey: {KEY.public}}} ] }}",
        lambda: {"seed": SEED},
        [dict, lambda: {"seed": OTHER}],
    ),
    "tls": Way(encrypted, trusting),
    "mutual tls": Way(lambda: encrypted(", verify: true"), known, [trusting]),
}


@pytest.mark.parametrize("way", WAYS)
def test_official_clients_are_let_in_or_refused(serve: Serve, way: str) -> None:
    chosen = WAYS[way]
    server = serve(chosen.text())
    url = f"nats://127.0.0.1:{server.port}"
    scenarios = [{"url": url, **each()} for each in (chosen.good, *chosen.bad)]
    for attempt in (try_go, try_node):
        let_in, *refused = attempt(scenarios)
        assert let_in == SEEN
        for each in refused:
            assert each["error"] == "AuthorizationError" or "tls" in way, each


@pytest.mark.parametrize("is_encrypted", [False, True], ids=["ws", "wss"])
def test_the_client_for_node_comes_in_by_websocket(serve: Serve, is_encrypted: bool) -> None:
    block = encrypted() if is_encrypted else "no_tls: true"
    port = free_port()
    serve(
        f"""authorization {{ user: me, password: pw }}
        websocket {{ listen: "127.0.0.1:{port}", compression: true, {block} }}"""
    )
    scheme = "wss" if is_encrypted else "ws"
    scenario = {
        "url": f"{scheme}://127.0.0.1:{port}",
        "websocket": True,
        **(trusting() if is_encrypted else {}),
    }
    let_in, refused = try_node([{**scenario, "user": "me", "pass": "pw"}, scenario])
    assert let_in == SEEN
    assert refused["error"] == "AuthorizationError"
