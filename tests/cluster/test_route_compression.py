"""A peer that wants its routes compressed: it is told that there is no such thing, and gets on."""

from collections.abc import Sequence

import pytest

from tests.cluster.test_route_pool import hear
from tests.support.broker import NATS_SERVER
from tests.support.cluster import Hosts, RoutePeer
from tests.support.fixtures import Dial
from tests.support.machines import rows_of

KINDS = [("nats-server", "shardd-1"), ("shardd-1", "nats-server")]


@pytest.mark.parametrize("mode", ["accept", "s2_fast", "s2_auto"])
@pytest.mark.parametrize("kinds", KINDS)
def test_routes_to_a_server_that_compresses_are_not_compressed(
    kinds: Sequence[str], mode: str, dial: Dial, no_leaks: None
) -> None:
    hosts = Hosts()
    try:
        for kind in kinds:
            hosts.add(kind, block=f"compression: {mode}" if kind == NATS_SERVER else "")
        hosts.settle()
        hear(dial, hosts, ("",))
        broker = next(each for each in hosts.brokers if each.kind != NATS_SERVER)
        rows = rows_of(broker)
        assert rows
        assert {row["compression"] for row in rows} == {"off"}
    finally:
        hosts.stop()


def test_a_server_that_is_to_compress_says_that_it_does_not(no_leaks: None) -> None:
    hosts = Hosts()
    try:
        broker = hosts.add("shardd-1", block="compression: s2_better")
        assert "routes are not compressed" in broker.log_text()
        peer = RoutePeer(hosts.cluster_ports[0], compression="s2_fast")
        assert "compression" not in peer.info
        peer.join()
        assert peer.settle() == []
        peer.close()
    finally:
        hosts.stop()
