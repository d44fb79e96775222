"""What CONNECT may ask for, which names are reserved, and how refused names are quoted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardd.errors import CloseReason, ProtocolError
from shardd.worker import session
from shardd.worker.info import DEFAULT_OPTIONS, ConnectOptions

# --- CONNECT ---------------------------------------------------------------------------------


def connect(text, previous=DEFAULT_OPTIONS, serves_headers=True):
    options = session.connect(text.encode(), previous)
    session.check_options(options, serves_headers)
    return options


def refusal(text, **keywords):
    with pytest.raises(ProtocolError) as caught:
        connect(text, **keywords)
    return caught.value


def test_a_connect_that_asks_for_what_can_be_gives_its_options():
    options = connect('{"verbose":false,"protocol":1,"headers":true,"no_responders":true}')
    assert options == ConnectOptions(verbose=False, protocol=1, headers=True, no_responders=True)


def test_a_connect_changes_only_what_it_names():
    first = connect('{"verbose":false,"pedantic":false,"echo":false,"name":"one"}')
    second = connect('{"name":"two"}', previous=first)
    assert second == ConnectOptions(verbose=False, pedantic=False, echo=False, name="two")


@pytest.mark.parametrize("text", ["", "{", "[]", "7", '{"verbose":1}', '{"name":"\x01"}'])
def test_a_connect_that_cannot_be_read_ends_the_connection_without_a_word(text):
    error = refusal(text)
    assert error.reason is CloseReason.PROTOCOL_VIOLATION
    assert error.text is None


@pytest.mark.parametrize("text", ['{"account":"A"}', '{"new_account":true}', '{"account":"$G"}'])
def test_an_account_by_name_is_refused(text):
    error = refusal(text)
    assert error.reason is CloseReason.AUTHENTICATION_FAILURE
    assert error.text == "Authorization Violation"


def test_an_account_that_is_not_named_is_fine():
    assert connect('{"account":"","new_account":false,"protocol":1}').protocol == 1


@pytest.mark.parametrize("protocol", [-1, 2, 3, 2**40])
def test_a_client_protocol_that_does_not_exist_is_refused(protocol):
    error = refusal(f'{{"protocol":{protocol}}}')
    assert error.reason is CloseReason.BAD_CLIENT_PROTOCOL_VERSION
    assert error.text == "invalid client protocol"
    assert str(protocol) in str(error)


@pytest.mark.parametrize("protocol", [0, 1])
def test_both_client_protocols_are_taken(protocol):
    assert connect(f'{{"protocol":{protocol}}}').protocol == protocol


@pytest.mark.parametrize(
    ("text", "serves_headers"),
    [
        ('{"no_responders":true}', True),
        ('{"no_responders":true,"headers":false}', True),
        ('{"no_responders":true,"headers":true}', False),
    ],
)
def test_no_responders_needs_headers_on_both_sides(text, serves_headers):
    error = refusal(text, serves_headers=serves_headers)
    assert error.reason is CloseReason.NO_RESPONDERS_REQUIRES_HEADERS
    assert error.text == "no responders requires headers support"


def test_headers_alone_may_be_asked_of_a_server_without_them():
    assert connect('{"headers":true}', serves_headers=False).headers


def test_headers_asked_for_before_serve_a_later_no_responders():
    first = connect('{"headers":true}')
    assert connect('{"no_responders":true}', previous=first).no_responders


def test_an_account_is_refused_before_a_protocol_and_a_protocol_before_no_responders():
    everything = '"protocol":9,"no_responders":true'
    assert refusal(f'{{"account":"A",{everything}}}').text == "Authorization Violation"
    assert refusal(f"{{{everything}}}").text == "invalid client protocol"


# --- INFO ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "accepted"),
    [
        (b"{}", True),
        (b' {"a":[1]} ', True),
        (b"", False),
        (b"null", False),
        (b"[]", False),
        (b'"{}"', False),
        (b"{", False),
        (b"{}x", False),
        (b'{"a":"\xff"}', False),
        (b"[" * 100_000, False),
    ],
)
def test_an_info_of_a_client_must_be_a_json_object(data, accepted):
    assert session.is_info(data) is accepted


# --- reserved names --------------------------------------------------------------------------


@pytest.mark.parametrize("subject", [b"_GR_.a", b"$GR.a", b"$NRG.a.b", b"_GR_."])
def test_a_reserved_subject_is_refused(subject):
    text = session.publish_refusal(subject, b"_R_.x")
    assert text == f'Permissions Violation for Publish to "{subject.decode()}"'


@pytest.mark.parametrize("reply", [b"_R_.a", b"$JS.ACK.a", b"_GR_.a", b"$GR.a"])
def test_a_reserved_reply_is_refused(reply):
    text = session.publish_refusal(b"a", reply)
    assert text == f'Permissions Violation for Publish with Reply of "{reply.decode()}"'


@pytest.mark.parametrize(
    ("subject", "reply"),
    [
        (b"a", b""),
        (b"_GR_", b"_R_"),
        (b"_R_.a", b"$NRG.a"),
        (b"$JS.ACK.a", b"_INBOX.a"),
        (b"x.$GR.a", b"x._R_.a"),
        (b"_gr_.a", b"_r_.a"),
    ],
)
def test_names_that_look_like_reserved_ones_are_not_refused(subject, reply):
    assert session.publish_refusal(subject, reply) is None


def test_only_the_servers_own_queue_name_is_refused():
    refused = session.subscribe_refusal(b"foo", b"_sys_")
    assert refused == 'Permissions Violation for Subscription to "foo" using queue "_sys_"'
    for queue in (None, b"", b"_sys", b"_sys_x", b"_SYS_"):
        assert session.subscribe_refusal(b"foo", queue) is None


def test_a_subscription_with_too_many_tokens_is_named_in_its_refusal():
    text = session.tokens_refusal(b"a.b.c")
    assert text == 'Permissions Violation for Subscription to "a.b.c", too many tokens'


# --- quoting ---------------------------------------------------------------------------------

# What nats-server 2.15.1 answered to publishing to "$GR.x" followed by these bytes.
QUOTED = [
    # with a short escape
    (b"\x07\x08\x0b\x0c", r"\a\b\v\f"),
    (b'a"b\\c', r"a\"b\\c"),
    # ASCII
    (b"\x01\x06\x0e\x1b\x1f\x7f", r"\x01\x06\x0e\x1b\x1f\x7f"),
    (b"'`!#$%&()*+,-./0:;<=>?@AZ[]^_az{|}~", "'`!#$%&()*+,-./0:;<=>?@AZ[]^_az{|}~"),
    # letters, marks, symbols and the replacement character stay
    (
        "\u00e9\u0301\u4e2d\u20c0\ufffd\U0001f600".encode(),
        "\u00e9\u0301\u4e2d\u20c0\ufffd\U0001f600",
    ),
    # controls, format characters, blanks, private use and unassigned ones do not
    ("\u0080\u0085".encode(), r"\u0080\u0085"),
    ("\u00a0\u1680\u2003\u2028\u3000".encode(), r"\u00a0\u1680\u2003\u2028\u3000"),
    ("\u00ad\u200b\u202e\ufeff".encode(), r"\u00ad\u200b\u202e\ufeff"),
    ("\u0378\ue000\ufffe\uffff".encode(), r"\u0378\ue000\ufffe\uffff"),
    ("\U000e0001\U000f0000\U0010ffff".encode(), r"\U000e0001\U000f0000\U0010ffff"),
    # bytes that are no UTF-8: alone, cut short, overlong, a surrogate, beyond the range
    (b"\x80\xa0\xc0\xfe\xff", r"\x80\xa0\xc0\xfe\xff"),
    (b"\x80\xc3\xa9", "\\x80\u00e9"),
    (b"\xe2\x82", r"\xe2\x82"),
    (b"\xf0\x9f\x98", r"\xf0\x9f\x98"),
    (b"\xe2\x28\xa1", r"\xe2(\xa1"),
    (b"\xc0\x80", r"\xc0\x80"),
    (b"\xed\xa0\x80", r"\xed\xa0\x80"),
    (b"\xf4\x90\x80\x80", r"\xf4\x90\x80\x80"),
]


@pytest.mark.parametrize(("data", "quoted"), QUOTED, ids=[repr(data) for data, _ in QUOTED])
def test_a_refused_subject_is_quoted_as_nats_server_quotes_it(data, quoted):
    text = session.publish_refusal(b"$GR.x" + data, b"")
    assert text == f'Permissions Violation for Publish to "$GR.x{quoted}"'


def test_what_the_log_may_quote_besides_has_gos_short_escapes_too():
    assert session.quote(b"") == '""'
    assert session.quote(b"a b\r\n\t\x00") == r'"a b\r\n\t\x00"'


SHORT = {"a": 7, "b": 8, "t": 9, "n": 10, "v": 11, "f": 12, "r": 13, '"': 34, "\\": 92}
DIGITS = {"x": 2, "u": 4, "U": 8}


def unquote(text):
    """The bytes again: Go's escapes, read back."""
    assert text[0] == text[-1] == '"'
    characters = iter(text[1:-1])
    data = b""
    for character in characters:
        if character != "\\":
            assert character != '"'
            data += character.encode()
            continue
        kind = next(characters)
        if kind in SHORT:
            data += bytes([SHORT[kind]])
            continue
        code = int("".join(next(characters) for _ in range(DIGITS[kind])), 16)
        data += bytes([code]) if kind == "x" else chr(code).encode()
    return data


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.binary(max_size=40), st.text(max_size=20).map(str.encode)))
def test_a_quoted_name_is_one_printable_line_that_says_every_byte(data):
    text = session.quote(data)
    assert text.isprintable()
    assert unquote(text) == data


def test_what_a_client_proves_its_right_with_is_not_logged() -> None:
    shown = session.redacted(b'{"user":"u","pass":"p1","Auth_Token":"p2","jwt":"p3","sig":"p4"}')
    assert not [secret for secret in (b"p1", b"p2", b"p3", b"p4") if secret in shown]
    assert b'"user": "u"' in shown
    assert session.redacted(b"{") == b"[not JSON]"
    assert session.redacted(b"[1]") == b"[not an object]"
