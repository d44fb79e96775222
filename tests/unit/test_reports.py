"""Monitoring's documents from facts that are handed in, without processes."""

import json
import re
from typing import Any

import pytest

from shardd.auth.identity import Identity
from shardd.config.core import Config
from shardd.config.model import Account, PolicyKind, QueuePolicy, ServiceExport, StreamImport
from shardd.reports import absent, accountz, connz, events, healthz, processz, subsz, varz
from shardd.reports.documents import encode, encode_line
from shardd.reports.query import Query, QueryError
from shardd.slots import COUNTER_NAMES

NOW = 1_800_000_000_000_000_000


def query(**parameters: str) -> Query:
    return Query({name: [value] for name, value in parameters.items()})


def row(cid: int, **changes: Any) -> connz.Row:
    fields = {"cid": cid, "kind": "Client", "type": "nats", "ip": "::1", "port": 1}
    fields |= {"start_ns": NOW - 10**9 * (100 - cid), "last_ns": NOW, "rtt_ns": cid * 1000}
    fields |= dict.fromkeys(("pending_bytes", "in_msgs", "out_msgs", "in_bytes", "out_bytes"), 0)
    return fields | {"subscriptions": 0, "account": "$G", "name_tag": "$G"} | changes


# --- queries -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1", "t", "T", "true", "TRUE", "True"])
def test_truth_is_told_as_in_go(text: str) -> None:
    assert query(subs=text).boolean("subs")


@pytest.mark.parametrize("text", ["", "0", "f", "F", "false", "FALSE", "False"])
def test_untruth_is_told_as_in_go(text: str) -> None:
    assert not query(subs=text).boolean("subs")


@pytest.mark.parametrize(
    ("read", "value", "text"),
    [
        ("boolean", "yes", "bool|ParseBool|invalid syntax"),
        ("integer", "x", "int|Atoi|invalid syntax"),
        ("integer", "1_0", "int|Atoi|invalid syntax"),
        ("integer", "\u0661", "int|Atoi|invalid syntax"),
        ("integer", "9223372036854775808", "int|Atoi|value out of range"),
        ("integer", "9" * 100_000, "int|Atoi|value out of range"),
        ("unsigned", "-1", "uint64|ParseUint|invalid syntax"),
        ("unsigned", "+1", "uint64|ParseUint|invalid syntax"),
        ("unsigned", "18446744073709551616", "uint64|ParseUint|value out of range"),
    ],
)
def test_bad_values_are_refused_in_go_s_words(read: str, value: str, text: str) -> None:
    with pytest.raises(QueryError) as caught:
        getattr(query(limit=value), read)("limit")
    kind, function, why = text.split("|")
    kind = "boolean" if kind == "bool" else kind
    assert str(caught.value) == (
        f"Error decoding {kind} for 'limit': strconv.{function}: parsing \"{value}\": {why}"
    )


@pytest.mark.parametrize(("value", "number"), [("", 0), ("7", 7), ("-7", -7), ("+7", 7)])
def test_numbers_may_have_a_sign(value: str, number: int) -> None:
    assert query(limit=value).integer("limit") == number


# --- connections -------------------------------------------------------------------------------

WORKERS = (
    [row(1, in_msgs=5, subscriptions=2), row(3, in_msgs=9), row(5, in_msgs=9)],
    [row(2, in_msgs=7, subscriptions=2), row(4, account="A", authorized_user="u")],
)


def page(**parameters: str) -> dict[str, Any]:
    wanted = connz.read_query(query(**parameters))
    again = connz.ConnzQuery(**json.loads(json.dumps(wanted.fields())))
    picked = [connz.pick(rows, again, len(rows), NOW) for rows in WORKERS]
    return connz.document(picked, wanted, "ID", NOW)


@pytest.mark.parametrize(
    ("sort", "cids"),
    [
        ("", [1, 2, 3, 4, 5]),
        ("cid", [1, 2, 3, 4, 5]),
        ("start", [1, 2, 3, 4, 5]),
        ("msgs_from", [3, 5, 2, 1, 4]),
        ("subs", [1, 2, 3, 4, 5]),
        ("rtt", [5, 4, 3, 2, 1]),
        ("uptime", [1, 2, 3, 4, 5]),
    ],
)
def test_connections_of_all_workers_are_sorted(sort: str, cids: list[int]) -> None:
    whole = [each["cid"] for each in page(sort=sort)["connections"]]
    assert whole == cids
    paged = [page(sort=sort, limit="2", offset=str(offset))["connections"] for offset in (0, 2, 4)]
    assert [each["cid"] for rows in paged for each in rows] == cids


def test_pages_tell_how_much_there_is() -> None:
    found = page(limit="2", offset="4")
    assert [found[name] for name in ("num_connections", "total", "offset", "limit")] == [1, 5, 4, 2]
    assert page(offset="99")["connections"] == []


def test_connections_are_filtered() -> None:
    assert [each["cid"] for each in page(user="u")["connections"]] == [4]
    of_account = page(acc="A")
    assert [each["cid"] for each in of_account["connections"]] == [4]
    assert of_account["total"] == 1
    assert [each["cid"] for each in page(cid="3")["connections"]] == [3]
    assert page(mqtt_client="x")["connections"] == []


def test_the_global_account_has_no_name_and_only_auth_tells_users() -> None:
    plain, told = page(cid="4")["connections"][0], page(cid="4", auth="1")["connections"][0]
    assert "account" not in plain
    assert (told["account"], told["authorized_user"]) == ("A", "u")
    assert "account" not in page(cid="1", auth="1")["connections"][0]


def test_closed_ones_tell_when_and_why() -> None:
    gone = [row(1, stop_ns=NOW - 10**9, reason="b", last_ns=NOW - 3 * 10**9)]
    gone.append(row(2, stop_ns=NOW, reason="a"))
    for sort, cids in (("stop", [2, 1]), ("reason", [2, 1]), ("cid", [1, 2])):
        wanted = connz.read_query(query(state="closed", sort=sort))
        found = connz.document([connz.pick(gone, wanted, 2, NOW)], wanted, "ID", NOW)
        assert [each["cid"] for each in found["connections"]] == cids
    first = found["connections"][0]
    assert (first["reason"], first["idle"], first["uptime"]) == ("b", "2s", "1m38s")


# --- subscriptions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other", "meets"),
    [
        ("foo", "foo", True),
        ("foo.*", "foo.bar", True),
        ("foo.*", "*.bar", True),
        ("foo.>", "*.bar.baz", True),
        ("foo.*", "foo.bar.baz", False),
        ("foo.bar", "foo.baz", False),
        ("foo", "foo..x", False),
        ("foo.>", "foo", False),
    ],
)
def test_patterns_meet_where_a_subject_matches_both(one: str, other: str, meets: bool) -> None:
    assert subsz.collide(one, other) is meets
    assert subsz.collide(other, one) is meets


def test_subscriptions_of_all_workers_make_one_page() -> None:
    rows = [{"account": "$G", "subject": f"a.{number}", "sid": str(number)} for number in range(9)]
    wanted = subsz.read_query(query(subs="1", limit="3", offset="4", test="a.5"))
    total, picked = subsz.pick(rows, wanted)
    assert (total, [each["sid"] for each in picked]) == (1, ["5"])
    wanted = subsz.read_query(query(subs="1", limit="3", offset="4"))
    facts = [
        subsz.IndexFacts(5, 2, 5, 0, 10, 4, 3, 4, *subsz.pick(rows[:5], wanted)),
        subsz.IndexFacts(4, 2, 6, 2, 10, 6, 5, 6, *subsz.pick(rows[5:], wanted)),
    ]
    found = subsz.document(facts, wanted, "ID", NOW)
    assert [each["sid"] for each in found["subscriptions_list"]] == ["4", "5", "6"]
    names = ("num_subscriptions", "num_inserts", "num_removes", "total", "max_fanout")
    assert [found[name] for name in names] == [9, 11, 2, 9, 5]
    assert (found["cache_hit_rate"], found["avg_fanout"]) == (0.5, 2.5)


@pytest.mark.parametrize("subject", ["a.*", "a..b", ">", "a b", ".a"])
def test_a_subject_to_test_can_be_published_to(subject: str) -> None:
    with pytest.raises(QueryError, match="invalid test subject"):
        subsz.read_query(query(test=subject))


# --- the server, its accounts, its processes ---------------------------------------------------


def host_facts(**changes: Any) -> varz.HostFacts:
    totals = dict.fromkeys(COUNTER_NAMES, 0) | {"messages_in": 7, "slow_consumers": 3}
    fields: dict[str, Any] = {
        "server_id": "ID",
        "server_name": "one",
        "port": 4222,
        "http_host": "::1",
        "http_port": 8222,
        "https_port": 0,
        "cluster_port": 0,
        "start_ns": NOW,
        "config_load_ns": NOW,
        "memory_bytes": 1,
        "cpu_percent": 1.5,
        "cores": 2,
        "workers": 2,
        "totals": totals,
        "subscriptions": 4,
    }
    return varz.HostFacts(**(fields | changes))


def test_the_server_counts_clients_and_routes_together() -> None:
    routes = varz.RouteFacts(routes=4, remotes=1, in_messages=5, slow_consumers=1)
    found = varz.document(Config(), host_facts(routes=routes), NOW + 61 * 10**9)
    names = ("in_msgs", "in_client_msgs", "routes", "remotes", "uptime", "cpu")
    assert [found[name] for name in names] == [12, 7, 4, 1, "1m1s", 1.5]
    assert found["slow_consumer_stats"] == {"clients": 2, "routes": 1, "gateways": 0, "leafs": 0}
    assert found["ping_interval"] == 120_000_000_000


def test_the_server_tells_how_members_of_queue_groups_are_chosen() -> None:
    assert "queue_policies" not in varz.document(Config(), host_facts(), NOW)
    policy = QueuePolicy(subject="a.>", policy=PolicyKind.STICKY, header="Id", account="$G")
    found = varz.document(Config(queue_policies=(policy,)), host_facts(), NOW)
    assert found["queue_policies"] == [
        {"subject": "a.>", "group": ">", "policy": "sticky", "header": "Id", "account": "$G"}
    ]


def test_an_account_tells_what_it_shares() -> None:
    account = Account(
        name="A",
        exports=(ServiceExport(subject="ask", accounts=("B",), token_position=1),),
        imports=(StreamImport(account="B", subject="data.>", prefix="from"),),
    )
    view = accountz.AccountsView(("$G", "A"), "$SYS", {"A": account})
    found = accountz.detail_document(view, "A", accountz.AccountFacts(), [], "ID", NOW)
    detail = found["account_detail"]
    assert detail["exports"][0]["approved_accounts"] == ["B"]
    assert detail["imports"][0]["local_subject"] == "from.data.>"
    assert "mappings" not in detail
    with pytest.raises(QueryError, match="Account zz does not exist"):
        accountz.detail_document(view, "zz", accountz.AccountFacts(), [], "ID", NOW)


def test_accounts_without_clients_are_told_when_asked_for() -> None:
    facts = {"A": accountz.AccountFacts(connections=1), "B": accountz.AccountFacts()}
    for parameters, names in (({}, ["A"]), ({"unused": "1"}, ["A", "B"])):
        found = accountz.statistics_document(facts, query(**parameters), "ID", NOW)
        assert [each["acc"] for each in found["account_statz"]] == names


def test_sums_over_workers() -> None:
    one = accountz.AccountFacts(1, 2, 3, 4, 5, 6, 7)
    assert accountz.add([one, one]) == accountz.AccountFacts(2, 4, 6, 8, 10, 12, 14)


def test_processes_are_told_with_what_they_count() -> None:
    facts = processz.ProcessFacts(0, "Worker 0", 9, "ready", 1, 2.04, 3.0, {"messages_in": 5})
    (found,) = processz.document([facts], "ID", NOW)["processes"]
    assert (found["name"], found["cpu"], found["messages_in"]) == ("worker-0", 2.0, 5)
    assert set(COUNTER_NAMES) <= set(found)


def test_health_has_a_status() -> None:
    assert healthz.answer(query(), is_ready=True) == (200, {"status": "ok"})
    status, document = healthz.answer(query(), is_ready=False, why_not="no")
    assert (status, document) == (500, {"status": "error", "error": "no"})
    status, document = healthz.answer(query(details="1"), is_ready=False, why_not="no")
    assert document["errors"] == [{"type": "CONNECTION", "error": "no"}]


def test_what_is_not_there_is_told() -> None:
    for make in absent.DOCUMENTS.values():
        assert make("ID", NOW)["server_id"] == "ID"
    assert absent.profilez("x")["error"] == 'Profile "x" not found'


# --- the system account ------------------------------------------------------------------------

ENVELOPE = events.Envelope("ID", "one-two", "127.0.0.1", "cluster")


@pytest.mark.parametrize(
    ("wishes", "is_meant"),
    [
        ({}, True),
        ({"server_name": "one"}, True),
        ({"server_name": "one", "exact_match": True}, False),
        ({"server_name": "one-two", "exact_match": True}, True),
        ({"cluster": "other"}, False),
        ({"host": "127"}, True),
        ({"tags": ["a"]}, False),
        ({"domain": "x"}, False),
    ],
)
def test_requests_mean_some_servers(wishes: dict[str, Any], is_meant: bool) -> None:
    assert ENVELOPE.is_meant(wishes) is is_meant


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"junk", "invalid character 'j' looking for beginning of value"),
        (b"[]", "json: cannot unmarshal array into Go value of type server.ConnzEventOptions"),
        (b'{"limit":"x"}', "string into Go struct field ConnzEventOptions.limit of type int"),
        (b'{"limit":true}', "bool into Go struct field ConnzEventOptions.limit of type int"),
        (b'{"auth":1}', "number into Go struct field ConnzEventOptions.auth of type bool"),
        (b'{"sort":{}}', "object into Go struct field ConnzEventOptions.sort of type server.Sort"),
    ],
)
def test_options_of_a_wrong_kind_are_refused(payload: bytes, text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(text)):
        events.read_options(payload, "CONNZ")


def test_options_become_the_parameters_that_http_has() -> None:
    options = events.read_options(
        b'{"limit":5,"auth":true,"subscriptions":true,"state":1,"acc":null,"new":{}}', "CONNZ"
    )
    assert events.parameters(options) == {
        "limit": ["5"],
        "auth": ["1"],
        "subs": ["1"],
        "state": ["closed"],
    }
    assert events.read_options(b" ", "VARZ") == {}


def test_a_client_that_has_left_sent_what_the_server_received() -> None:
    gone = row(1, in_msgs=2, in_bytes=20, out_msgs=3, out_bytes=30, stop_ns=NOW, reason="Kicked")
    found = events.connection_event(ENVELOPE, gone, "event", NOW)
    assert found["type"].endswith("client_disconnect")
    assert found["sent"] == {"msgs": 2, "bytes": 20}
    assert found["received"] == {"msgs": 3, "bytes": 30}
    came = events.connection_event(ENVELOPE, row(1), "event", NOW)
    assert came["type"].endswith("client_connect")
    assert "reason" not in came
    assert came["server"]["seq"] == found["server"]["seq"] + 1


def test_a_user_is_told_when_it_expires() -> None:
    identity = Identity(user="u", account="A", expires_at=NOW / 1e9 + 5)
    assert events.user_info(ENVELOPE, identity, NOW)["data"]["expires"] == pytest.approx(
        5e9, abs=1e3
    )


def test_signs_of_html_are_escaped_as_in_go() -> None:
    assert encode_line({"a": "<b>&\u2028"}) == b'{"a":"\\u003cb\\u003e\\u0026\\u2028"}'
    assert encode({"a": [1]}) == b'{\n  "a": [\n    1\n  ]\n}'
