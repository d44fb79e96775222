"""Monitoring over HTTP beside nats-server's: the same clients on both, and what both tell.

Deliberate differences stand at the top; everything else is the same, in the same order.
"""

import json
import re
import ssl
from collections.abc import Iterator
from typing import Any, Final

import pytest

from tests.support import certificates
from tests.support.broker import KEPT_PIDS, NATS_SERVER, Broker, make_broker
from tests.support.fixtures import Dial, Serve
from tests.support.waiting import wait_until
from tests.support.watched import ask, document, fetch, shape
from tests.support.wireclient import WireClient

CONFIG: Final = """
http: "127.0.0.1:-1"
server_name: one
max_payload: 100KB
accounts {
  A {
    users [ {user: u, password: p},
            {user: v, password: p, permissions {subscribe: ["foo.>", "_INBOX.>"]}} ]
    exports [ {stream: "data.>"}, {service: "ask.*", response_type: stream},
              {stream: "priv.>", accounts: [B]} ]
    mappings { "old.*": "new.$1" }
  }
  B {
    users [ {user: b, password: p} ]
    imports [ {stream: {account: A, subject: "data.>"}, prefix: "fromA"},
              {service: {account: A, subject: "ask.*"}, to: "call.*"} ]
  }
  SYS { users [ {user: s, password: p} ] }
}
system_account: SYS
"""

# What shardd adds, and what only a Go program with JetStream has.
EXTRA: Final = ("shardd",)
ABSENT: Final = (
    *("git_commit", "js_ack_fc_v2", "js_api_reply_v2", "js_raft_delete_range"),
    "js_snapshot_sources",
)

DOCUMENTS: Final = (
    *("varz", "routez", "leafz", "gatewayz", "jsz", "accountz", "healthz", "ipqueuesz"),
    *("connz?sort=msgs_to", "connz?auth=1&sort=msgs_to", "connz?acc=A&sort=msgs_to&auth=1"),
    *("connz?subs=1&user=u", "connz?user=u"),
    *("connz?subs=detail&user=v", "connz?cid=99", "connz?acc=nope", "connz?mqtt_client=x"),
    *(
        "connz?limit=1&sort=msgs_to",
        "connz?offset=-1&limit=-3&user=u",
        "connz?state=all&sort=msgs_to",
    ),
    *("connz?state=closed&auth=1", "connz?state=closed&sort=reason", "connz?filter=ignored&user=u"),
    *("connz?filter_subject=nobody&user=u", "connz?callback=ignored&user=u"),
    *("subsz", "subsz?acc=B&subs=1&test=data.x", "subsz?test=foo.x&subs=1", "subscriptionsz"),
    *("accstatz", "accstatz?unused=1", "accstatz?unused=t", "routez?subs=detail"),
    *("healthz?details=1", "healthz?js-enabled-only=1", "healthz?js-server-only=true"),
    *("leafz?subs=1", "gatewayz?accs=1", "jsz?acc=A"),
)

REFUSED: Final = (
    *("connz?limit=x", "connz?limit=99999999999999999999", "connz?offset=1.5", "connz?cid=-1"),
    *("connz?sort=zz", "connz?sort=stop", "connz?sort=reason&state=open", "connz?state=zz"),
    *("connz?subs=x", "connz?auth=yes", 'connz?limit="'),
    *("subsz?limit=x", "subsz?test=a.*", "subsz?test=a..b", "subsz?subs=zz", "subsz?offset=q"),
    *("routez?subs=zz", "accstatz?unused=x", "accountz?acc=nope", "healthz?js-enabled=zz"),
    *("nope", "varz/", "connz/x", "metricsz", "raftz/x"),
)

SORTS: Final = (
    *("cid", "start", "subs", "pending", "msgs_to", "msgs_from", "bytes_to", "bytes_from"),
    *("last", "idle", "uptime", "rtt"),
)


class Watched:
    """A server with clients that did the same as on the other one."""

    def __init__(self, kind: str) -> None:
        self.broker = make_broker(kind)
        self.broker.start_text(CONFIG)
        KEPT_PIDS.add(self.broker.pid)
        self.clients: list[WireClient] = []
        first = self.join("u", name="first", lang="go", version="1.2", headers=True)
        first.subscribe(b"foo.*", b"1")
        first.subscribe(b"work.x", b"2", b"group")
        first.send(b"UNSUB 2 10\r\n")
        second = self.join("v", name="second")
        for _ in range(3):
            second.publish(b"foo.a", b"hello")
        second.publish(b"nobody", b"12")
        second.ping()
        for _ in range(3):
            first.expect_msg(b"foo.a", b"1", b"hello")
        self.join("b", name="third").subscribe(b"fromA.data.x", b"9")
        self.join("v", name="gone").finish()
        self.clients.pop()
        assert wait_until(lambda: document(self.broker, "connz")["total"] == 3, "one to be gone")

    def join(self, user: str, **options: Any) -> WireClient:
        client = WireClient(self.broker.host, self.broker.port)
        self.clients.append(client)
        return client.connect(user=user, **{"pass": "p"}, **options)

    def close(self) -> None:
        for client in self.clients:
            client.finish()
        self.broker.stop()


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[Broker, Broker]]:
    """nats-server and shardd."""
    watched = [Watched(NATS_SERVER), Watched("shardd-2")]
    yield watched[0].broker, watched[1].broker
    for each in watched:
        each.close()


@pytest.mark.parametrize("path", DOCUMENTS)
def test_documents_have_the_same_fields_in_the_same_order(
    both: tuple[Broker, Broker], path: str
) -> None:
    theirs, ours = [document(broker, path) for broker in both]
    assert shape(ours, EXTRA) == shape(theirs, ABSENT)


# What tools in Go (nats-top, prometheus-nats-exporter) decode into their types, and end at if it is
# anything else: numbers with a fraction only in these fields, moments and durations in Go's form.
FRACTIONS: Final = {"cpu", "cache_hit_rate", "avg_fanout"}
MOMENTS: Final = {"now", "start", "stop", "last_activity", "config_load_time"}
MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)")
DURATIONS: Final = {"rtt"}
DURATION: Final = re.compile(r"(\d+h)?(\d+m)?(\d+(\.\d+)?(s|ms|µs|ns))?")


@pytest.mark.parametrize("index", [0, 1], ids=["nats-server", "shardd"])
def test_tools_with_types_can_decode_all(both: tuple[Broker, Broker], index: int) -> None:
    seen: set[str] = set()

    def check(value: Any, name: str = "") -> None:
        if isinstance(value, dict):
            for key, each in value.items():
                check(each, key)
        elif isinstance(value, list):
            for each in value:
                check(each, name)
        else:
            seen.add(name)
            assert not isinstance(value, float) or name in FRACTIONS, (name, value)
            assert name not in MOMENTS or MOMENT.fullmatch(value), (name, value)
            assert name not in DURATIONS or (value and DURATION.fullmatch(value)), (name, value)

    for path in ("varz", "connz?auth=true&subs=1&state=all", "subsz?subs=1", "routez", "accstatz"):
        check(document(both[index], path))
    assert seen >= {*FRACTIONS, *MOMENTS, *DURATIONS}


@pytest.mark.parametrize("path", DOCUMENTS)
def test_headers_are_the_same(both: tuple[Broker, Broker], path: str) -> None:
    headers = [fetch(broker, path)[2] for broker in both]
    for name in ("Content-Type", "Access-Control-Allow-Origin"):
        assert headers[1][name] == headers[0][name]


@pytest.mark.parametrize("path", REFUSED)
def test_what_cannot_be_answered_is_told_in_the_same_words(
    both: tuple[Broker, Broker], path: str
) -> None:
    theirs, ours = [fetch(broker, path) for broker in both]
    assert ours[:2] == theirs[:2]
    assert ours[2]["Content-Type"] == theirs[2]["Content-Type"]


def test_connections_have_done_the_same(both: tuple[Broker, Broker]) -> None:
    varying = ("cid", "port", "start", "last_activity", "rtt", "uptime", "idle", "stop")
    rows = []
    for broker in both:
        found = document(broker, "connz?auth=1&state=all&subs=1")["connections"]
        for row in found:
            row.get("subscriptions_list", []).sort()
            if "stop" in row:
                del row["pending_bytes"]  # what its end found still queued is a matter of time
        rows.append(
            {
                row["name"]: {name: row[name] for name in row if name not in varying}
                for row in found
                if "name" in row
            }
        )
    assert rows[1] == rows[0]
    assert set(rows[0]) >= {"first", "second", "third", "gone"}


def test_subscriptions_are_told_in_detail(both: tuple[Broker, Broker]) -> None:
    rows = []
    for broker in both:
        (row,) = document(broker, "connz?subs=detail&user=u")["connections"]
        for each in row["subscriptions_list_detail"]:
            del each["cid"]
        rows.append(sorted(row["subscriptions_list_detail"], key=lambda each: each["sid"]))
    assert rows[1] == rows[0]
    assert [each["msgs"] for each in rows[0]] == [3, 0]


@pytest.mark.parametrize("sort", SORTS)
def test_pages_join_what_the_workers_tell_in_order(both: tuple[Broker, Broker], sort: str) -> None:
    whole = document(both[1], f"connz?sort={sort}")["connections"]
    paged = [
        document(both[1], f"connz?sort={sort}&limit=1&offset={offset}")["connections"][0]["cid"]
        for offset in range(len(whole))
    ]
    assert paged == [row["cid"] for row in whole]


def test_an_account_tells_what_it_shares(both: tuple[Broker, Broker]) -> None:
    details = []
    for broker in both:
        for name in ("A", "B"):
            detail = document(broker, f"accountz?acc={name}")["account_detail"]
            # nats-server makes its own requests imports of every account.
            imports = [row for row in detail.get("imports", []) if row["account"] != "SYS"]
            exports = sorted(detail.get("exports", []), key=lambda row: row["subject"])
            names = ("account_name", "expired", "complete", "client_connections", "mappings")
            details.append(({key: detail.get(key) for key in names}, imports, exports))
    assert details[2:] == details[:2]


def test_accounts_count_their_clients(both: tuple[Broker, Broker]) -> None:
    counts = []
    for broker in both:
        rows = document(broker, "accstatz")["account_statz"]
        names = ("acc", "conns", "total_conns", "sent", "received", "slow_consumers")
        counts.append(sorted(({key: row[key] for key in names} for row in rows), key=str))
    assert counts[1] == counts[0]


def test_the_server_as_a_whole_is_told_alike(both: tuple[Broker, Broker]) -> None:
    same = (
        *("server_name", "version", "proto", "host", "auth_required", "max_connections"),
        *("ping_interval", "ping_max", "http_host", "auth_timeout", "max_payload"),
        *("max_control_line", "max_pending", "tls_timeout", "write_deadline", "cores"),
        *("connections", "in_msgs", "in_bytes", "out_msgs", "out_bytes", "slow_consumers"),
        *("in_client_msgs", "out_client_bytes", "routes", "remotes", "leafnodes"),
        *("system_account", "slow_consumer_stats", "stale_connection_stats", "cluster"),
        *("gateway", "leaf", "mqtt", "websocket", "jetstream", "http_base_path", "https_port"),
    )
    theirs, ours = [document(broker, "varz") for broker in both]
    assert {name: ours[name] for name in same} == {name: theirs[name] for name in same}
    assert ours["http_req_stats"]["/varz"] >= 1


def test_fan_out_is_that_of_the_cached_results(both: tuple[Broker, Broker]) -> None:
    found = document(both[1], "subsz")
    assert found["max_fanout"] == 1
    assert 0 < found["avg_fanout"] <= 1


@pytest.mark.parametrize("path", ["varz", "nope"])
@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_other_methods_are_answered(both: tuple[Broker, Broker], path: str, method: str) -> None:
    import urllib.error
    import urllib.request

    statuses = []
    for broker in both:
        request = urllib.request.Request(f"{broker.monitoring}/{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                statuses.append(answer.status)
        except urllib.error.HTTPError as error:
            error.close()
            statuses.append(error.code)
    assert statuses[1] == statuses[0]


# --- servers of their own ---------------------------------------------------------------------

CLOSED: Final = """
http: "127.0.0.1:-1"
authorization { timeout: 1.5, users [ {user: u, password: p} ] }
accounts { SYS { users [ {user: s, password: p} ] } }
system_account: SYS
max_payload: 100
max_control_line: 512
"""


def test_whoever_has_left_is_told_with_the_reason(serve: Serve, dial: Dial) -> None:
    broker = serve(CLOSED)

    def join(name: str) -> WireClient:
        return dial(broker).connect(user="u", **{"pass": "p"}, name=name)

    dial(broker).send(b'CONNECT {"user":"u","pass":"no","name":"refused"}\r\n')
    join("parse").send(b"NOPE\r\n")
    join("payload").send(b"PUB x 101\r\n")
    join("line").send(b"PUB " + b"x" * 600)
    join("error").send(b"-ERR 'no'\r\n")
    join("left").close()
    system = dial(broker).connect(user="s", **{"pass": "p"}, headers=True, no_responders=True)
    kicked = join("kicked")
    ask(
        system,
        f"$SYS.REQ.SERVER.{kicked.info['server_id']}.KICK",
        b'{"cid":%d}' % kicked.info["client_id"],
    )
    dial(broker)  # says nothing

    def reasons() -> dict[str, str]:
        rows = document(broker, "connz?state=closed")["connections"]
        return {row.get("name", ""): row["reason"] for row in rows}

    expected = {
        "refused": "Authentication Failure",
        "parse": "Protocol Violation",
        "error": "Parse Error",
        "payload": "Maximum Message Payload Exceeded",
        "line": "Maximum Control Line Exceeded",
        "left": "Client Closed",
        "kicked": "Kicked",
        "": "Authentication Timeout",
    }
    wait_until(lambda: len(reasons()) >= len(expected), "everybody to be gone")
    assert reasons() == expected


def test_a_slow_consumer_is_told_as_one(serve: Serve, dial: Dial) -> None:
    broker = serve(
        'http: "127.0.0.1:-1"\nmax_payload: 60000\nmax_pending: 100000\n'
        "no_fast_producer_stall: true\n"
    )
    slow = dial(broker, receive_bytes=4096).connect(name="slow")
    slow.subscribe(b"much", b"1")
    fast = dial(broker).connect(name="fast")

    def rows() -> list[dict[str, Any]]:
        for _ in range(20):
            fast.publish(b"much", b"x" * 50_000)
        fast.ping()
        found: list[dict[str, Any]] = document(broker, "connz?state=closed")["connections"]
        return found

    (row,) = wait_until(rows, "the slow one to be gone")
    assert row["name"] == "slow"
    assert row["reason"] == "Slow Consumer (Pending Bytes)"
    varz = document(broker, "varz")
    assert varz["slow_consumers"] == 1
    assert varz["slow_consumer_stats"]["clients"] == 1


def encrypted(more: str = "") -> str:
    server, authority = certificates.server(), certificates.authority()
    return f"""tls {{ cert_file: '{server.certificate}', key_file: '{server.key}',
        ca_file: '{authority.certificate}' {more} }}"""


def trusting(*, has_certificate: bool = True) -> ssl.SSLContext:
    authority = certificates.authority()
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.check_hostname = False
    if has_certificate:
        own = authority.issue("watched")
        context.load_cert_chain(own.certificate, own.key)
    return context


def test_encrypted_connections_tell_how(dial: Dial) -> None:
    rows, shapes = [], []
    context = trusting()
    for kind in (NATS_SERVER, "shardd-2"):
        broker = make_broker(kind)
        broker.start_text(f'http: "127.0.0.1:-1"\nserver_name: one\n{encrypted(", verify: true")}')
        try:
            dial(broker, tls=context).connect(name="known")
            found = document(broker, "connz?auth=1")
            (row,) = found["connections"]
            del row["tls_cipher_suite"]  # which one is preferred is the library's
            # The client sends its issuer too; Python's TLS hands out the first one only.
            row["tls_peer_certs"] = row["tls_peer_certs"][:1]
            rows.append({name: row[name] for name in row if name.startswith("tls_")})
            shapes.append((shape(found), shape(document(broker, "varz"), (*ABSENT, *EXTRA))))
        finally:
            broker.stop()
    assert rows[1] == rows[0]
    assert rows[1]["tls_peer_certs"][0]["subject"]
    assert shapes[1] == shapes[0]


def test_monitoring_is_encrypted_where_it_is_configured(serve: Serve) -> None:
    broker = serve(f'https: "127.0.0.1:-1"\n{encrypted()}')
    assert broker.monitoring.startswith("https://")
    assert document(broker, "varz", trusting(has_certificate=False))["tls_required"] is True


def test_a_base_path_stands_before_all(serve: Serve) -> None:
    broker = serve('http: "127.0.0.1:-1"\nhttp_base_path: "a/b"\n')
    assert document(broker, "a/b/varz")["http_base_path"] == "a/b"
    assert document(broker, "a/b/healthz") == {"status": "ok"}
    assert fetch(broker, "varz")[0] == 404


def test_a_reload_shows_and_keeps_the_listener(serve: Serve) -> None:
    text = 'http: "127.0.0.1:-1"\nserver_name: one\nmax_payload: {}\n'
    broker = serve(text.format(1000))
    loaded = document(broker, "varz")["config_load_time"]
    assert "Reloaded server configuration" in broker.reload(text.format(2000))
    wait_until(lambda: document(broker, "varz")["max_payload"] == 2000, "the new limit")
    assert document(broker, "varz")["config_load_time"] != loaded
    refused = text.format(2000).replace("-1", "1")
    assert "config reload not supported for" in broker.reload(refused)


def test_the_blocks_of_listeners_have_the_same_fields() -> None:
    text = f"""http: "127.0.0.1:-1"
        server_name: one
        cluster {{ name: c, listen: "127.0.0.1:-1", authorization {{ user: r, password: p }}
                   {encrypted()} }}
        websocket {{ listen: "127.0.0.1:-1", no_tls: true, compression: true, same_origin: true,
                     allowed_origins: ["http://a.example"], handshake_timeout: "3s" }}
        max_subscriptions: 7
    """
    found = []
    for kind in (NATS_SERVER, "shardd-2"):
        broker = make_broker(kind)
        broker.start_text(text)
        try:
            found.append(document(broker, "varz"))
        finally:
            broker.stop()
    theirs, ours = found
    assert shape(ours, EXTRA) == shape(theirs, ABSENT)
    for block in ("cluster", "websocket"):
        varying = ("port", "cluster_port")
        assert {k: v for k, v in ours[block].items() if k not in varying} == {
            k: v for k, v in theirs[block].items() if k not in varying
        }, json.dumps([ours[block], theirs[block]])
