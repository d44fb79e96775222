"""A queue member leaves while messages for it are under way: those go to members on other hosts.

Plain subscriptions there have had them by the ordinary line. Between shardd hosts a line may say
that it is for queue groups only: it names the first group twice.
"""

from collections.abc import Iterator

import pytest

from tests.support.cluster import Hosts, RoutePeer, hosts_of, wait_heard
from tests.support.crowd import worker_of
from tests.support.fixtures import Dial
from tests.support.waiting import wait_until

ROUNDS = 20
BURST = 50


@pytest.fixture
def hosts(no_leaks: None) -> Iterator[Hosts]:
    with hosts_of(["shardd-2", "shardd-2"]) as hosts:
        yield hosts


def tokens_of(text: bytes, sid: bytes) -> list[bytes]:
    """The payloads that one subscription has had."""
    lines = text.split(b"\r\n")
    return [
        lines[at + 1] for at, line in enumerate(lines) if line.startswith(b"MSG work %b " % sid)
    ]


def test_a_host_that_has_listeners_too_gets_what_a_member_here_leaves_behind(
    hosts: Hosts, dial: Dial
) -> None:
    far = dial(hosts[1]).connect()
    far.send(b"SUB work listener\r\nSUB work q member\r\nSUB end 0\r\n")
    far.ping()
    publisher, member = dial(hosts[0]).connect(), dial(hosts[0]).connect()
    while worker_of(member, 2) == worker_of(publisher, 2):
        member = dial(hosts[0]).connect()
    for client in (publisher, member):  # each of the two workers knows
        wait_heard(far, client, b"end")
    sent: list[bytes] = []
    served: list[bytes] = []
    heard: list[bytes] = []

    def look() -> bool:
        far.send(b"PING\r\n")
        text = far.read_until(b"PONG\r\n")
        served.extend(tokens_of(text, b"member"))
        heard.extend(tokens_of(text, b"listener"))
        return len(served) >= len(sent) and len(heard) >= len(sent)

    for _ in range(ROUNDS):
        member.send(b"SUB work q near\r\nPING\r\n")
        # What is still under way from the last round may come to it again.
        served += tokens_of(member.read_until(b"PONG\r\n"), b"near")
        tokens = [b"%05d" % number for number in range(len(sent), len(sent) + BURST)]
        sent += tokens
        publisher.send(*(b"PUB work 5\r\n%b\r\n" % token for token in tokens))
        member.send(b"UNSUB near\r\nPING\r\n")
        served += tokens_of(member.read_until(b"PONG\r\n"), b"near")
        publisher.ping()
    try:
        wait_until(look, "all of it to be heard, and to come to a member")
    finally:
        print(
            "not heard:", sorted({*sent} - {*heard}), "by no member:", sorted({*sent} - {*served})
        )
    look()
    assert heard == sent
    assert sorted(served) == sent


def test_plain_subscriptions_do_not_hear_what_is_for_queue_groups_only(
    hosts: Hosts, dial: Dial
) -> None:
    port = hosts.cluster_ports[0]
    knowing = RoutePeer(port, "ONE", "one", shardd_handed_on=True).join()
    other = RoutePeer(port, "TWO", "two").join()
    client = dial(hosts[0]).connect()
    client.send(b"SUB work 1\r\nSUB work q 2\r\nSUB work r 3\r\nSUB end 4\r\n")
    client.ping()

    def heard(peer: RoutePeer, lines: bytes) -> list[bytes]:
        peer.wire.send(lines, b"RMSG $G end 1\r\nx\r\n")
        text = client.read_until(b"MSG end 4 1\r\nx\r\n")
        return sorted(line for line in text.split(b"\r\n") if line.startswith(b"MSG work"))

    assert knowing.info["shardd_handed_on"] is True
    assert heard(knowing, b"RMSG $G work | q q 2\r\nhi\r\n") == [b"MSG work 2 2"]
    assert heard(knowing, b"RMSG $G work + in.1 q q r 2\r\nhi\r\n") == [
        b"MSG work 2 in.1 2",
        b"MSG work 3 in.1 2",
    ]
    assert heard(knowing, b"RMSG $G work | q 2\r\nhi\r\n") == [b"MSG work 1 2", b"MSG work 2 2"]
    # From a server that does not say that it knows of it, a line is for all.
    assert b"MSG work 1 2" in heard(other, b"RMSG $G work | q q 2\r\nhi\r\n")
    knowing.close()
    other.close()
