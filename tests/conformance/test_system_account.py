"""The system account beside nats-server's: requests, and what the server says unasked."""

import gzip
import json
import os
import signal
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.conformance.test_monitoring import ABSENT, CONFIG, EXTRA
from tests.support.broker import KEPT_PIDS, NATS_SERVER, Broker, make_broker
from tests.support.fixtures import Dial, Serve
from tests.support.waiting import wait_until
from tests.support.watched import ask, shape
from tests.support.wireclient import WireClient

# nats-server makes some of its own requests imports of every account, and has a Go runtime.
HIDDEN: Final = (*ABSENT, "feature_flags", "imports", "subscriptions_list")

REQUESTS: Final = (
    *(("SERVER.PING", b""), ("SERVER.PING.IDZ", b""), ("SERVER.PING.STATSZ", b"")),
    *(("SERVER.PING.VARZ", b""), ("SERVER.PING.HEALTHZ", b""), ("SERVER.PING.ROUTEZ", b"")),
    *(("SERVER.PING.GATEWAYZ", b""), ("SERVER.PING.LEAFZ", b""), ("SERVER.PING.JSZ", b"")),
    *(("SERVER.PING.RAFTZ", b""), ("SERVER.PING.PROFILEZ", b""), ("SERVER.PING.NOPE", b"")),
    ("SERVER.PING.CONNZ", b'{"acc":"A","auth":true,"sort":"msgs_to"}'),
    ("SERVER.PING.CONNZ", b'{"acc":"A","filter_subject":"foo.bar"}'),
    ("SERVER.PING.CONNZ", b'{"acc":"A","filter_subject":"bar.*"}'),
    ("SERVER.PING.CONNZ", b'{"acc":"A","limit":1,"subscriptions":true,"state":2}'),
    ("SERVER.PING.SUBSZ", b'{"account":"A"}'),
    ("SERVER.PING.ACCOUNTZ", b""),
    ("SERVER.PING.ACCOUNTZ", b'{"account":"A"}'),
    ("SERVER.PING.STATSZ", b'{"server_name":"on"}'),
    ("SERVER.ID.IDZ", b""),
    ("SERVER.ID.VARZ", b""),
    ("SERVER.ID.STATSZ", b""),
    ("SERVER.ID.NOPE", b""),
    ("ACCOUNT.A.CONNZ", b""),
    ("ACCOUNT.A.CONNZ", b'{"acc":"B"}'),
    ("ACCOUNT.A.SUBSZ", b""),
    ("ACCOUNT.A.INFO", b""),
    ("ACCOUNT.A.CONNS", b""),
    ("ACCOUNT.A.STATZ", b""),
    ("ACCOUNT.A.LEAFZ", b""),
    ("ACCOUNT.PING.STATZ", b'{"accounts":["A"]}'),
    ("ACCOUNT.PING.STATZ", b'{"include_unused":true}'),
    ("ACCOUNT.nope.CONNZ", b""),
    ("USER.INFO", b""),
)

REFUSED: Final = (
    ("SERVER.PING.CONNZ", b'{"sort":"zz"}'),
    ("SERVER.PING.CONNZ", b'{"sort":1}'),
    ("SERVER.PING.CONNZ", b'{"limit":"x"}'),
    ("SERVER.PING.CONNZ", b'{"auth":1}'),
    ("SERVER.PING.CONNZ", b'{"server_name":1}'),
    ("SERVER.PING.CONNZ", b'{"filter_subject":"foo"}'),
    ("SERVER.PING.CONNZ", b"[]"),
    ("SERVER.PING.SUBSZ", b'{"test":"a.*"}'),
    ("SERVER.PING.VARZ", b"junk"),
    ("SERVER.PING", b"[]"),
    ("SERVER.PING.ACCOUNTZ", b'{"account":"zz"}'),
    ("SERVER.ID.KICK", b'{"cid":9999}'),
    ("SERVER.ID.LDM", b'{"cid":9999}'),
    ("ACCOUNT.nope.INFO", b""),
    ("ACCOUNT.A.JSZ", b""),
)

# Whom these mean is not here, so nobody says a word.
SILENT: Final = (
    ("SERVER.PING.STATSZ", b'{"server_name":"zz"}'),
    ("SERVER.PING.STATSZ", b'{"server_name":"on","exact_match":true}'),
    ("SERVER.PING.VARZ", b'{"host":"zz"}'),
    ("SERVER.PING.VARZ", b'{"cluster":"zz"}'),
    ("SERVER.PING.VARZ", b'{"tags":["zz"]}'),
    ("ACCOUNT.nope.CONNS", b""),
    ("ACCOUNT.nope.STATZ", b""),
)

Both = tuple[WireClient, WireClient]


def enter(broker: Broker, user: str, **options: Any) -> WireClient:
    client = WireClient(broker.host, broker.port)
    return client.connect(
        user=user, **{"pass": "p"}, headers=True, no_responders=True, name="it", **options
    )


@pytest.fixture(scope="module")
def both() -> Iterator[Both]:
    """A client of the system account on nats-server and one on shardd."""
    brokers = [make_broker(NATS_SERVER), make_broker("shardd-2")]
    clients, others = [], []
    for broker in brokers:
        broker.start_text(CONFIG)
        KEPT_PIDS.add(broker.pid)
        others.append(enter(broker, "u"))
        others[-1].subscribe(b"foo.*", b"7")
        clients.append(enter(broker, "s"))
    yield clients[0], clients[1]
    for client in (*clients, *others):
        client.finish()
    for broker in brokers:
        broker.stop()


def answers(both: Both, subject: str, body: bytes) -> list[dict[str, Any] | None]:
    return [
        ask(client, "$SYS.REQ." + subject.replace(".ID.", f".{client.info['server_id']}."), body)
        for client in both
    ]


@pytest.mark.parametrize(("subject", "body"), REQUESTS)
def test_answers_have_the_same_fields(both: Both, subject: str, body: bytes) -> None:
    theirs, ours = answers(both, subject, body)
    assert shape(ours, (*EXTRA, *HIDDEN)) == shape(theirs, HIDDEN)


@pytest.mark.parametrize(("subject", "body"), REFUSED)
def test_refusals_say_the_same(both: Both, subject: str, body: bytes) -> None:
    theirs, ours = answers(both, subject, body)
    assert theirs is not None
    assert ours is not None
    assert ours["error"] == theirs["error"]
    assert list(ours) == list(theirs)


@pytest.mark.parametrize(("subject", "body"), SILENT)
def test_who_is_not_meant_says_nothing(both: Both, subject: str, body: bytes) -> None:
    for client in both:
        client.send(b"SUB none 5\r\n")
        client.publish(f"$SYS.REQ.{subject}".encode(), body, b"none")
        # The server takes requests in order, or nearly: an answer to the later one shows it.
        assert ask(client, "$SYS.REQ.SERVER.PING.IDZ") is not None
        client.send(b"UNSUB 5\r\n")
        client.ping()


def test_answers_are_packed_for_who_asks(both: Both) -> None:
    for client in both:
        client.send(b"SUB packed 3\r\nUNSUB 3 1\r\n")
        header = b"NATS/1.0\r\nAccept-Encoding: gzip\r\n\r\n"
        client.send(
            b"HPUB $SYS.REQ.SERVER.PING.VARZ packed %d %d\r\n%b\r\n"
            % (len(header), len(header), header)
        )
        line = client.expect_line().split()
        assert line[0] == b"HMSG"
        message = client.read(int(line[-1]) + 2)[:-2]
        packed_header, packed = message[: int(line[-2])], message[int(line[-2]) :]
        assert b"Content-Encoding: gzip" in packed_header
        assert json.loads(gzip.decompress(packed))["data"]["server_name"] == "one"


def test_users_ask_who_they_are(serve: Serve, dial: Dial) -> None:
    client = dial(serve(CONFIG)).connect(
        user="v", **{"pass": "p"}, headers=True, no_responders=True
    )
    answer = ask(client, "$SYS.REQ.USER.INFO")
    assert answer is not None
    answer["data"]["permissions"]["subscribe"]["allow"].sort()
    assert answer["data"] == {
        "user": "v",
        "account": "A",
        "account_name": "A",
        "permissions": {"publish": {}, "subscribe": {"allow": ["_INBOX.>", "foo.>"]}},
    }
    assert ask(client, "$SYS.REQ.SERVER.PING") is None, "the system account alone can ask that"


class Events:
    """What a client of the system account hears."""

    def __init__(self, client: WireClient) -> None:
        self._client = client
        self._heard: list[tuple[bytes, bytes]] = []
        client.send(b"SUB $SYS.ACCOUNT.> 1\r\nSUB $SYS.SERVER.> 2\r\n")
        # Its own arrival, perhaps.
        client.send(b"PING\r\n")
        while (line := client.expect_line()) != b"PONG\r\n":
            self._take(line)

    def next(self, end: str) -> dict[str, Any]:
        """The first one not yet taken whose subject ends like this."""
        while True:
            for subject, payload in self._heard:
                if subject.endswith(end.encode()):
                    self._heard.remove((subject, payload))
                    event: dict[str, Any] = json.loads(payload)
                    return event
            self._take(self._client.expect_line())

    def _take(self, line: bytes) -> None:
        fields = line.split()
        self._heard.append((fields[1], self._client.read(int(fields[-1]) + 2)[:-2]))


def test_events_have_the_same_fields() -> None:
    heard: list[dict[str, Any]] = []
    for kind in (NATS_SERVER, "shardd-2"):
        broker = make_broker(kind)
        broker.start_text(CONFIG)
        system = enter(broker, "s")
        events = Events(system)
        told: dict[str, Any] = {}
        with enter(broker, "u", lang="x", version="1") as client:
            told["CONNECT"] = events.next(".A.CONNECT")
            client.publish(b"foo", b"12345")
            client.ping()
        told["DISCONNECT"] = events.next(".A.DISCONNECT")
        told["CONNS"] = events.next(".A.SERVER.CONNS")
        with WireClient(broker.host, broker.port) as stranger:
            stranger.send(b'CONNECT {"user":"u","pass":"no","name":"bad"}\r\n')
            stranger.read_to_end()
        told["ERR"] = events.next(".CLIENT.AUTH.ERR")
        told["STATSZ"] = events.next(".STATSZ")
        assert told["DISCONNECT"]["sent"] == {"msgs": 1, "bytes": 5}
        assert told["DISCONNECT"]["reason"] == "Client Closed"
        assert told["ERR"]["reason"] == "Authentication Failure"
        heard.append(told)
        os.kill(broker.pid, signal.SIGTERM)
        told["SHUTDOWN"] = events.next(".SHUTDOWN")
        system.close()
        broker.stop()
    for name, theirs in heard[0].items():
        assert shape(heard[1][name], HIDDEN) == shape(theirs, HIDDEN), name


def test_a_client_is_told_to_leave_or_kicked(serve: Serve, dial: Dial) -> None:
    broker = serve(CONFIG)
    system = dial(broker).connect(user="s", **{"pass": "p"}, headers=True, no_responders=True)
    client = dial(broker).connect(user="u", **{"pass": "p"}, protocol=1)
    order = f"$SYS.REQ.SERVER.{client.info['server_id']}"
    body = b'{"cid":%d}' % client.info["client_id"]
    assert "error" not in (ask(system, f"{order}.LDM", body) or {"error": ""})
    assert json.loads(client.expect_line().removeprefix(b"INFO "))["ldm"] is True
    assert "error" not in (ask(system, f"{order}.KICK", body) or {"error": ""})
    client.read_to_end()


def test_a_reload_is_ordered(serve: Serve, dial: Dial) -> None:
    broker = serve(CONFIG)
    system = dial(broker).connect(user="s", **{"pass": "p"}, headers=True, no_responders=True)
    broker.configuration.write_text(CONFIG.replace("100KB", "50KB"))
    ask(system, f"$SYS.REQ.SERVER.{system.info['server_id']}.RELOAD")
    wait_until(lambda: "Reloaded server configuration" in broker.log_text(), "the reload")
