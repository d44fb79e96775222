"""INFO as clients read it, and CONNECT as nats-server reads it."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardd.config.core import Config
from shardd.errors import CloseReason, ProtocolError
from shardd.version import NATS_VERSION, SHARDD_VERSION
from shardd.worker.info import (
    DEFAULT_OPTIONS,
    ConnectOptions,
    InfoTemplate,
    json_string,
    parse_connect,
)

# --- INFO ------------------------------------------------------------------------------------


def template(config=None, host="0.0.0.0", port=4222, name="NAME"):
    return InfoTemplate(config or Config(), "ID", name, host, port)


def fields(line):
    """The JSON of an INFO line, which must be framed as nats-server frames it."""
    assert line.startswith(b"INFO {")
    assert line.endswith(b"} \r\n")
    assert line.count(b"\n") == 1
    return json.loads(line[5:])


def test_the_first_info_has_the_fields_and_the_order_of_nats_server():
    info = fields(template().first(7, "127.0.0.1"))

    assert list(info) == [
        *("server_id", "server_name", "version", "proto", "go", "host", "port", "headers"),
        *("max_payload", "client_id", "client_ip", "shardd"),
    ]
    assert info.pop("go").startswith("python3.")
    assert info == {
        "server_id": "ID",
        "server_name": "NAME",
        "version": NATS_VERSION,
        "proto": 1,
        "host": "0.0.0.0",
        "port": 4222,
        "headers": True,
        "max_payload": 1048576,
        "client_id": 7,
        "client_ip": "127.0.0.1",
        "shardd": SHARDD_VERSION,
    }


def test_the_first_info_is_compact_json_with_a_space_before_its_end():
    line = template().first(7, "::1")

    assert b'"headers":true,"max_payload":1048576,"client_id":7,"client_ip":"::1",' in line
    assert line.endswith(b'"} \r\n')


def test_the_second_info_says_so_after_the_client_ip():
    first = fields(template().first(7, "127.0.0.1"))
    info = fields(template().connect_info(7, "127.0.0.1"))

    assert list(info)[-4:] == ["client_ip", "connect_info", "remote_account", "shardd"]
    assert info == first | {"connect_info": True, "remote_account": "$G"}
    assert fields(template().connect_info(7, "::1", 'a"b'))["remote_account"] == 'a"b'


def test_a_client_id_may_have_64_bits():
    assert fields(template().first(2**64 - 1, "::1"))["client_id"] == 2**64 - 1


def test_info_shows_what_the_configuration_changes():
    config = Config(max_payload=-1, no_header_support=True, client_advertise="me:99")
    info = fields(template(config).first(1, "::1"))

    assert info["max_payload"] == -1
    assert info["headers"] is False
    assert (info["host"], info["port"]) == ("me", 99)


def test_text_is_escaped_as_go_does_it():
    assert json_string('a<b>&\u00e9\u2028\\"x') == (
        b'"a\\u003cb\\u003e\\u0026\xc3\xa9\\u2028\\\\\\"x"'
    )
    assert json_string("\n\r\t\b\f\x01\x7f\ud800") == (b'"\\n\\r\\t\\b\\f\\u0001\x7f\xef\xbf\xbd"')


@given(name=st.text(), ip=st.text())
@settings(deadline=None, max_examples=100)
def test_any_name_makes_one_line_of_json(name, ip):
    info = fields(template(name=name).first(1, ip))

    assert (info["server_name"], info["client_ip"]) == (name, ip)


# --- CONNECT: each case was seen on nats-server ----------------------------------------------


def test_an_empty_connect_means_verbose_pedantic_and_echo():
    assert parse_connect(b"{}") == ConnectOptions(verbose=True, pedantic=True, echo=True)


def test_every_option_is_read():
    expected: dict[str, Any] = {
        "verbose": False,
        "pedantic": False,
        "echo": False,
        "headers": True,
        "no_responders": True,
        "protocol": 1,
        "name": "n",
        "lang": "go",
        "version": "1.2",
        "user": "u",
        "pass": "p",
        "auth_token": "t",
        "nkey": "k",
        "sig": "s",
        "jwt": "j",
        "tls_required": True,
        "account": "a",
        "new_account": True,
    }
    options = parse_connect(json.dumps(expected).encode())

    expected["password"] = expected.pop("pass")
    assert options == ConnectOptions(**expected)
    assert all(value != getattr(DEFAULT_OPTIONS, key) for key, value in expected.items())


def test_a_second_connect_keeps_what_it_does_not_name():
    first = parse_connect(b'{"verbose":false,"name":"n","user":"u","pass":"p"}')
    second = parse_connect(b'{"pedantic":false,"user":"v","name":null}', first)

    assert second == ConnectOptions(verbose=False, pedantic=False, name="n", user="v", password="p")


@pytest.mark.parametrize(
    "data",
    [
        b"null",
        b" {} ",
        b'{"verbose":null}',
        b'{"protocol":-0}',
        b'{"x":' + b"9" * 500 + b"}",
        b'{"x":' + b"9" * 5000 + b"}",
        b'{"x":1e999}',
        b'{"x":[{"verbose":5}]}',
        b'{"x":' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"\xff":1}',
        b'{"Username":5,"password":5,"no-responders":5,"noresponders":5}',
        b'{"cluster":5,"gateway":5,"nonce":5,"hub":5,"server":5}',
        b'{"import":{},"export":{"allow":["a"],"zz":1}}',
        b'{"import":null,"export":{"allow":null,"deny":[null]}}',
        b'{"proxy_sig":"x","remote_account":"x"}',
    ],
)
def test_what_nats_server_accepts_and_ignores_changes_nothing(data):
    assert parse_connect(data) == DEFAULT_OPTIONS


@pytest.mark.parametrize(
    "key", ["verbose", "VERBOSE", "Verbose", "verbo\u017fe"], ids=["exact", "upper", "title", "s"]
)
def test_keys_are_read_in_any_case(key):
    assert parse_connect(json.dumps({key: False}, ensure_ascii=False).encode()).verbose is False


def test_a_kelvin_sign_is_a_k():
    assert parse_connect('{"n\u212aey":"x"}'.encode()).nkey == "x"


def test_of_a_repeated_key_the_last_one_counts():
    assert parse_connect(b'{"verbose":true,"verbose":false}').verbose is False
    assert parse_connect(b'{"verbose":false,"VERBOSE":true}').verbose is True


@pytest.mark.parametrize("value", [2, -1, 2**63 - 1, -(2**63)])
def test_any_integer_is_a_protocol_for_the_parser(value):
    assert parse_connect(b'{"protocol":%d}' % value).protocol == value


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'{"name":"\xff"}', "\ufffd"),
        (b'{"name":"\\ud800"}', "\ufffd"),
        (b'{"name":"\\ud83d\\ude00"}', "\U0001f600"),
        (b'{"name":"a\x7fb"}', "a\x7fb"),
    ],
)
def test_names_become_text_that_can_be_encoded(data, name):
    options = parse_connect(data)

    assert options.name == name
    assert options.name.encode("utf-8")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'"x"',
        b"1",
        b"true",
        b"{",
        b"{} x",
        b"{}{}",
        b'{"verbose":false,}',
        b'{"verbose":"no"}',
        b'{"verbose":0}',
        b'{"VERBOSE":"no"}',
        b'{"verbose":"x","verbose":false}',
        b'{"protocol":1.0}',
        b'{"protocol":1e0}',
        b'{"protocol":"1"}',
        b'{"protocol":true}',
        b'{"protocol":0x1}',
        b'{"protocol":01}',
        b'{"protocol":9223372036854775808}',
        b'{"protocol":-9223372036854775809}',
        b'{"protocol":' + b"9" * 5000 + b"}",
        b'{"x":NaN}',
        b'{"x":Infinity}',
        b'{"name":5}',
        b'{"name":["x"]}',
        b'{"name":"a\x01b"}',
        b'{"name":"a\x00b"}',
        b'{"name":"a\\x"}',
        b'\xef\xbb\xbf{"verbose":false}',
        b'{"verbose":\x0cfalse}',
        b"{}\x0b",
        b'{"pass":5}',
        b'{"auth_token":5}',
        b'{"jwt":5}',
        b'{"headers":5}',
        b'{"tls_required":"x"}',
        b'{"new_account":"x"}',
        b'{"remote_account":5}',
        b'{"proxy_sig":5}',
        b'{"import":5}',
        b'{"import":{"allow":5}}',
        b'{"import":{"Allow":"a"}}',
        b'{"export":{"deny":[5]}}',
        b'{"export":[]}',
    ],
)
def test_what_nats_server_closes_for_is_a_silent_protocol_violation(data):
    with pytest.raises(ProtocolError) as caught:
        parse_connect(data)

    assert caught.value.reason is CloseReason.PROTOCOL_VIOLATION
    assert caught.value.text is None
    assert str(caught.value)


def test_credentials_do_not_show_in_a_printed_object():
    options = parse_connect(b'{"pass":"secret","auth_token":"secret","jwt":"secret"}')

    assert "secret" not in repr(options)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"verbose":['])
def test_deep_nesting_is_refused_and_nothing_worse(opening):
    with pytest.raises(ProtocolError):
        parse_connect(b'{"x":' + opening * 100_000)


def check(data):
    """Reads or refuses; anything else fails the test."""
    try:
        options = parse_connect(data)
    except ProtocolError:
        return
    for name in ConnectOptions.__slots__:
        assert type(getattr(options, name)) is type(getattr(DEFAULT_OPTIONS, name))
    assert -(2**63) <= options.protocol < 2**63
    repr(options).encode("utf-8")


@given(st.binary())
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_read_or_refused(data):
    check(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from([*ConnectOptions.__slots__, "pass", "import", "export", "PROTOCOL", "allow"])


@given(st.dictionaries(KEYS | st.text(), JSON, max_size=5), st.binary(max_size=3), st.data())
@settings(deadline=None, max_examples=300)
def test_any_object_is_read_or_refused_whole_or_damaged(document, junk, data):
    text = json.dumps(document).encode()
    check(text)
    cut = data.draw(st.integers(0, len(text)))
    check(text[:cut] + junk + text[cut:])
