"""INFO and CONNECT: what the server says first, and what a client's options change."""

import json
from typing import Any

import pytest

from tests.support.broker import Broker
from tests.support.fixtures import Dial, Join, ServerWith
from tests.support.wireclient import WireClient

# What clients read, in nats-server's order. A server may say more between these.
ALWAYS: dict[str, type] = {
    "server_id": str,
    "server_name": str,
    "version": str,
    "proto": int,
    "go": str,
    "host": str,
    "port": int,
    "headers": bool,
    "max_payload": int,
    "client_id": int,
    "client_ip": str,
}
# Says something that is false of a lone server without TLS, users and JetStream.
ABSENT = {
    "auth_required", "tls_required", "tls_verify", "tls_available", "jetstream", "ip", "nonce",
    "cluster", "cluster_dynamic", "domain", "connect_urls", "ws_connect_urls", "ldm",
    "connect_info", "remote_account", "acc_is_sys",
}  # fmt: skip


def test_info_comes_first_and_has_a_blank_before_the_line_end(raw: WireClient) -> None:
    assert raw.info_line.startswith(b'INFO {"server_id":"')
    assert raw.info_line.endswith(b"} \r\n")
    assert b"\n" not in raw.info_line[:-1]


def test_info_has_the_fields_that_clients_read_in_order(raw: WireClient) -> None:
    assert [key for key in raw.info if key in ALWAYS] == list(ALWAYS)


@pytest.mark.parametrize("key", ALWAYS)
def test_info_field_has_its_json_type(raw: WireClient, key: str) -> None:
    assert type(raw.info[key]) is ALWAYS[key]


def test_info_leaves_out_what_does_not_apply(raw: WireClient) -> None:
    assert not ABSENT & raw.info.keys()


def test_info_values_describe_the_server(server: Broker, raw: WireClient) -> None:
    info = raw.info
    assert info["proto"] == 1
    assert info["host"] == server.host == "127.0.0.1"
    assert info["port"] == server.port
    assert info["headers"] is True
    assert info["max_payload"] == 1_048_576
    assert info["client_ip"] == "127.0.0.1"
    assert info["client_id"] >= 1


def test_server_id_is_a_public_server_nkey_and_the_name_by_default(raw: WireClient) -> None:
    server_id = raw.info["server_id"]
    assert len(server_id) == 56
    assert server_id[0] == "N"
    assert set(server_id) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
    assert raw.info["server_name"] == server_id


def test_version_is_plain_numbers_that_clients_can_compare(raw: WireClient) -> None:
    parts = raw.info["version"].split(".")
    assert len(parts) == 3
    assert all(part.isdigit() for part in parts)
    assert (int(parts[0]), int(parts[1])) >= (2, 12)


def test_server_name_is_the_configured_one(server_with: ServerWith, dial: Dial) -> None:
    client = dial(server_with(server_name="blue-whale"))
    assert client.info["server_name"] == "blue-whale"
    assert client.info["server_id"] != "blue-whale"


def test_max_payload_in_info_is_the_configured_one(server_with: ServerWith, dial: Dial) -> None:
    assert dial(server_with(max_payload=1000)).info["max_payload"] == 1000


def test_headers_in_info_is_false_without_header_support(
    server_with: ServerWith, dial: Dial
) -> None:
    client = dial(server_with(no_header_support=True))
    assert client.info["headers"] is False


def test_all_connections_see_one_server_and_ids_of_their_own(server: Broker, dial: Dial) -> None:
    infos = [dial(server).info for _ in range(20)]
    assert len({info["client_id"] for info in infos}) == 20
    for info in infos:
        del info["client_id"]
    assert all(info == infos[0] for info in infos)


def test_two_starts_have_two_server_ids(server_with: ServerWith, dial: Dial) -> None:
    servers = server_with(), server_with(max_payload=1000)
    assert len({dial(server).info["server_id"] for server in servers}) == 2


# --- the second INFO --------------------------------------------------------------------------


def test_protocol_1_gets_a_second_info_after_its_first_pong(raw: WireClient) -> None:
    raw.send(b'CONNECT {"verbose":false,"protocol":1}\r\nPING\r\n')
    raw.expect(b"PONG\r\n")
    line = raw.expect_line()
    assert line.startswith(b"INFO {")
    assert line.endswith(b"} \r\n")
    second = json.loads(line[5:])
    assert second.pop("connect_info") is True
    assert second.pop("remote_account") == "$G"
    assert second == raw.info
    raw.expect_silence()


def test_second_info_names_its_own_fields_after_the_address(raw: WireClient) -> None:
    keys = list(raw.connect(protocol=1).second_info)
    start = keys.index("client_ip")
    assert keys[start : start + 3] == ["client_ip", "connect_info", "remote_account"]


def test_second_info_waits_for_the_first_ping(raw: WireClient) -> None:
    raw.send(b'CONNECT {"verbose":true,"protocol":1}\r\nSUB wait.a 1\r\nPUB wait.a 0\r\n\r\n')
    answer = raw.read(len(b"+OK\r\n+OK\r\nMSG wait.a 1 0\r\n\r\n+OK\r\n"))
    assert answer.replace(b"+OK\r\n", b"", 3) == b"MSG wait.a 1 0\r\n\r\n"
    raw.send(b"PING\r\n")
    raw.expect(b"PONG\r\n")
    assert raw.expect_line().startswith(b"INFO {")
    raw.expect_silence()


@pytest.mark.parametrize("options", [b"{}", b'{"protocol":0}'])
def test_protocol_0_gets_one_info_only(raw: WireClient, options: bytes) -> None:
    raw.send(b"CONNECT ", options, b"\r\nPING\r\n")
    raw.expect(b"+OK\r\nPONG\r\n")
    raw.expect_silence()


def test_without_connect_there_is_no_second_info(raw: WireClient) -> None:
    raw.ping()
    raw.ping()


def test_a_ping_before_connect_does_not_count_as_the_first(raw: WireClient) -> None:
    raw.ping()
    raw.connect(protocol=1)
    assert raw.second_info["connect_info"] is True
    raw.expect_silence()


# --- CONNECT ----------------------------------------------------------------------------------


def test_verbose_is_the_default(raw: WireClient) -> None:
    raw.send(b"CONNECT {}\r\n")
    raw.expect(b"+OK\r\n")


def test_unknown_options_are_ignored(raw: WireClient) -> None:
    raw.send(b'CONNECT {"verbose":false,"favourite_colour":"blue","x":[1,{"y":null}]}\r\n')
    raw.expect_silence()


def test_options_that_need_no_check_are_accepted(join: Join) -> None:
    client = join(
        name="it's me", lang="python", version="1.2.3", tls_required=False, user="u",
        auth_token="t", nkey="", sig="", jwt="", protocol=1, echo=True, headers=True,
        no_responders=True,
    )  # fmt: skip
    client.ping()


def test_json_may_have_blanks_and_escapes(raw: WireClient) -> None:
    raw.send(b'CONNECT  \t{ "verbose" : false , "name" : "\\u00e9\\n\xc3\xa9" } \t\r\n')
    raw.expect_silence()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{]",
        b"hello",
        b"[]",
        b"1",
        b'"text"',
        b'{"verbose":false',
        b'{"verbose":false} trailing',
        b'{"verbose":}',
        b"{'verbose':false}",
    ],
)
def test_connect_without_a_json_object_closes_silently(raw: WireClient, text: bytes) -> None:
    raw.send(b"CONNECT ", text, b"\r\n")
    raw.expect_closed()


WRONG_TYPES: dict[str, Any] = {
    "verbose": "yes", "pedantic": 1, "echo": "true", "headers": "yes", "no_responders": 0,
    "protocol": "1", "name": 5, "lang": [], "version": 1.5, "user": {}, "pass": 1234,
    "auth_token": 7, "tls_required": "no", "nkey": 1, "sig": 1, "jwt": False,
}  # fmt: skip


@pytest.mark.parametrize("key", WRONG_TYPES)
def test_an_option_of_the_wrong_json_type_closes_silently(raw: WireClient, key: str) -> None:
    raw.send(b"CONNECT ", json.dumps({key: WRONG_TYPES[key]}).encode(), b"\r\n")
    raw.expect_closed()


def test_a_fraction_is_no_protocol_number(raw: WireClient) -> None:
    raw.send(b'CONNECT {"protocol":1.5}\r\n')
    raw.expect_closed()


def test_null_leaves_an_option_as_it_was(raw: WireClient) -> None:
    raw.send(b'CONNECT {"verbose":null,"protocol":null,"name":null}\r\nPING\r\n')
    raw.expect(b"+OK\r\nPONG\r\n")
    raw.expect_silence()


@pytest.mark.parametrize("key", [b"Verbose", b"VERBOSE"])
def test_option_names_are_case_insensitive(raw: WireClient, key: bytes) -> None:
    raw.send(b'CONNECT {"', key, b'":false}\r\n')
    raw.expect_silence()


@pytest.mark.parametrize("protocol", [b"2", b"-1", b"100"])
def test_a_protocol_other_than_0_and_1_is_refused(raw: WireClient, protocol: bytes) -> None:
    raw.send(b'CONNECT {"verbose":false,"protocol":', protocol, b"}\r\n")
    raw.expect_fatal(b"invalid client protocol")


@pytest.mark.parametrize(
    "options", [b'{"no_responders":true}', b'{"no_responders":true,"headers":false}']
)
def test_no_responders_needs_headers(raw: WireClient, options: bytes) -> None:
    raw.send(b"CONNECT ", options, b"\r\n")
    raw.expect_fatal(b"no responders requires headers support")


def test_no_responders_needs_a_server_with_headers(server_with: ServerWith, dial: Dial) -> None:
    client = dial(server_with(no_header_support=True))
    client.send(b'CONNECT {"no_responders":true,"headers":true}\r\n')
    client.expect_fatal(b"no responders requires headers support")


@pytest.mark.parametrize("option", [b'"account":"mine"', b'"account":"$G"', b'"new_account":true'])
def test_asking_for_an_account_is_refused(raw: WireClient, option: bytes) -> None:
    raw.send(b"CONNECT {", option, b"}\r\n")
    raw.expect_fatal(b"Authorization Violation")


# --- CONNECT again ----------------------------------------------------------------------------


def test_a_second_connect_drops_the_subscriptions(join: Join) -> None:
    client = join()
    client.send(b'SUB again.a 1\r\nSUB again.a g 2\r\nCONNECT {"verbose":false}\r\n')
    client.send(b"PUB again.a 1\r\nx\r\n")
    client.expect_silence()
    client.send(b"SUB again.a 1\r\nPUB again.a 1\r\ny\r\n")
    client.expect(b"MSG again.a 1 1\r\ny\r\n")
    client.expect_silence()


def test_a_first_connect_keeps_the_subscriptions_made_before_it(raw: WireClient) -> None:
    raw.send(b'SUB early.a 1\r\nCONNECT {"verbose":false}\r\nPUB early.a 1\r\nx\r\nPING\r\n')
    answer = raw.read_until(b"PONG\r\n")
    assert answer.replace(b"+OK\r\n", b"", 1) == b"MSG early.a 1 1\r\nx\r\nPONG\r\n"
    raw.expect_silence()


def test_a_second_connect_changes_only_what_it_names(join: Join) -> None:
    client = join(headers=True)
    client.send(b'CONNECT {"verbose":true}\r\n')
    client.expect(b"+OK\r\n")
    client.send(b'CONNECT {"echo":false}\r\nSUB change.a 1\r\n')
    client.expect(b"+OK\r\n+OK\r\n")
    client.send(b"HPUB change.a 12 12\r\nNATS/1.0\r\n\r\n\r\nPING\r\n")
    client.expect(b"+OK\r\nPONG\r\n")
    client.expect_silence()


def test_a_second_connect_can_ask_for_protocol_1(join: Join) -> None:
    client = join()
    client.send(b'CONNECT {"verbose":false,"protocol":1}\r\nPING\r\nPING\r\n')
    client.expect(b"PONG\r\nPONG\r\n")
    client.expect_silence()


def test_a_second_connect_with_bad_options_is_refused_like_the_first(join: Join) -> None:
    client = join()
    client.send(b'CONNECT {"protocol":7}\r\n')
    client.expect_fatal(b"invalid client protocol")


def test_connect_may_follow_other_commands(raw: WireClient) -> None:
    raw.send(b"SUB before.a 1\r\nPUB before.a 2\r\nhi\r\nPING\r\n")
    answer = raw.read_until(b"PONG\r\n")
    assert answer.count(b"+OK\r\n") == 2
    assert answer.replace(b"+OK\r\n", b"") == b"MSG before.a 1 2\r\nhi\r\nPONG\r\n"
    raw.send(b'CONNECT {"verbose":false}\r\nUNSUB 1\r\n')
    raw.expect_silence()
