"""What accounts share: mappings, imported streams, imported services, as both sides see them."""

import re

import pytest

from tests.support.fixtures import Dial, Serve
from tests.support.wireclient import WireClient

ACCOUNTS = """
no_auth_user: guest
authorization { users: [ {user: guest, password: x} ] }
mappings {
  "old.*": "new.$1"
  "part.*.*": "p.{{partition(5,1)}}.{{wildcard(2)}}"
  "cut.*": "c.{{split(1,-)}}.{{left(1,2)}}.{{right(1,2)}}.{{slicefromleft(1,2)}}"
  "more.*": "m.{{splitfromright(1,2)}}.{{splitfromleft(1,1)}}.{{slicefromright(1,2)}}"
  half: [ {destination: one, weight: 50%}, {destination: two, weight: 50%} ]
  some: [ {destination: one, weight: 20%} ]
}
accounts {
  A {
    users: [ {user: a, password: x} ]
    exports: [
      {stream: "data.>"}, {stream: "priv.*", accounts: [B]}
      {service: "svc.*"}, {service: multi, response_type: stream}
    ]
    mappings { svc.mapped: svc.real }
  }
  B {
    users: [ {user: b, password: x} ]
    imports: [
      {stream: {account: A, subject: "data.>"}, prefix: fromA}
      {stream: {account: A, subject: "priv.*"}, to: "mine.$1.x"}
      {service: {account: A, subject: "svc.*"}, to: "call.*"}
      {service: {account: A, subject: multi}}
    ]
    exports: [ {service: "call.*"} ]
  }
  C {
    users: [ {user: c, password: x} ]
    imports: [
      {service: {account: B, subject: "call.*"}}
      {stream: {account: A, subject: "data.x.*"}}
    ]
  }
}
"""


@pytest.fixture
def enter(serve: Serve, dial: Dial):
    """`enter(user)`: one more connection of this user; none is the guest's."""
    server = serve(ACCOUNTS)

    def open_client(user: str = "") -> WireClient:
        options = {"user": user, "pass": "x"} if user else {}
        return dial(server).connect(headers=True, no_responders=True, **options)

    return open_client


def arrived(client: WireClient) -> list[bytes]:
    """The control lines of all that has arrived, without sizes and with replies made plain."""
    client.send(b"PING\r\n")
    text = client.read_until(b"PONG\r\n")
    lines = []
    for words in map(bytes.split, re.findall(rb"^H?MSG .*\r$", text, re.MULTILINE)):
        sizes = 2 if words[0] == b"HMSG" else 1
        lines.append(b" ".join(words[1:-sizes]))
    return [re.sub(rb"_R_\.\S+", b"_R_", line) for line in lines]


def test_a_mapping_changes_where_messages_go(enter) -> None:
    client = enter()
    client.subscribe(b">", b"1")
    for subject in (
        b"old.x",
        b"part.foo.bar",
        b"part.q.z",
        b"cut.abc-def",
        b"more.abcde",
        b"as.is",
    ):
        client.publish(subject, b"")
    assert arrived(client) == [
        b"new.x 1",
        b"p.3.bar 1",
        b"p.4.z 1",
        b"c.abc.def.ab.ef.ab.c-.de.f 1",
        b"m.abc.de.a.bcde.a.bc.de 1",
        b"as.is 1",
    ]


def test_weights_share_messages_out(enter) -> None:
    client = enter()
    for number, subject in enumerate((b"one", b"two", b"some")):
        client.subscribe(subject, b"%d" % number)
    client.send(b"PUB half 0\r\n\r\n" * 400)
    counts = [arrived(client).count(b"one 0")]
    assert 130 < counts[0] < 270
    client.send(b"PUB some 0\r\n\r\n" * 400)
    lines = arrived(client)
    assert len(lines) == 400
    assert 30 < lines.count(b"one 0") < 140


def test_an_imported_stream_comes_under_its_own_subject(enter) -> None:
    a, b, c = enter("a"), enter("b"), enter("c")
    b.subscribe(b">", b"1")
    b.subscribe(b"fromA.data.x.*", b"2")
    b.subscribe(b"mine.7.x", b"3")
    b.subscribe(b"mine.*.x", b"4", b"group")
    b.subscribe(b"other.>", b"5")
    c.subscribe(b"data.>", b"1")
    c.subscribe(b"data.x.y", b"2")
    c.subscribe(b"priv.*", b"3")
    for subject in (b"data.x.y", b"data.q", b"priv.7", b"priv.8", b"priv.a.b", b"none"):
        a.publish(subject, b"x")
    a.ping()
    assert sorted(arrived(b)) == sorted(
        [
            *(b"fromA.data.x.y 1", b"fromA.data.x.y 2", b"fromA.data.q 1"),
            *(b"mine.7.x 1", b"mine.7.x 3", b"mine.7.x 4", b"mine.8.x 1", b"mine.8.x 4"),
        ]
    )
    assert sorted(arrived(c)) == [b"data.x.y 1", b"data.x.y 2"]


def test_what_was_unsubscribed_is_imported_no_more(enter) -> None:
    a, b = enter("a"), enter("b")
    b.subscribe(b"fromA.>", b"1")
    b.send(b"UNSUB 1\r\n")
    b.ping()
    a.publish(b"data.x", b"x")
    a.ping()
    assert arrived(b) == []


def test_an_imported_service_answers_where_it_was_asked(enter) -> None:
    a, b = enter("a"), enter("b")
    b.subscribe(b"rep.*", b"9")
    a.subscribe(b"svc.>", b"1")
    b.publish(b"call.echo", b"hi", reply=b"rep.1")
    line = a.expect_line().split()
    assert line[:3] == [b"HMSG", b"svc.echo", b"1"]
    body = a.read(int(line[-1]) + 2)
    assert body.startswith(b'NATS/1.0\r\nNats-Request-Info: {"acc":"B","rtt":')
    assert body.endswith(b"\r\n\r\nhi\r\n")
    a.publish(line[3], b"first")
    b.expect_msg(b"rep.1", b"9", b"first")
    a.publish(line[3], b"second")  # one request, one response
    a.ping()
    b.expect_silence()


def test_nobody_there_is_said_across_accounts(enter) -> None:
    b = enter("b")
    b.subscribe(b"rep.*", b"9")
    b.publish(b"call.echo", b"hi", reply=b"rep.1")
    assert b.expect_line().startswith(b"HMSG rep.1 9 ")
    assert b.read_until(b"\r\n\r\n\r\n").startswith(b"NATS/1.0 503\r\n")


def test_a_service_may_call_another_one(enter) -> None:
    a, c = enter("a"), enter("c")
    a.subscribe(b"svc.chain", b"1")
    c.subscribe(b"here", b"9")
    c.publish(b"call.chain", b"hi", reply=b"here")
    line = a.expect_line().split()
    body = a.read(int(line[-1]) + 2)
    assert b'"acc":"C"' in body
    assert b'"svc":"B"' in body
    a.publish(line[3], b"ok")
    c.expect_msg(b"here", b"9", b"ok")


def test_a_stream_of_responses_arrives_whole(enter) -> None:
    a, b = enter("a"), enter("b")
    a.subscribe(b"multi", b"1")
    b.subscribe(b"rep", b"9")
    b.publish(b"multi", b"?", reply=b"rep")
    line = a.expect_line().split()
    a.read(int(line[-1]) + 2)
    for number in range(3):
        a.publish(line[3], b"%d" % number)
        b.expect_msg(b"rep", b"9", b"%d" % number)


def test_a_mapping_of_the_exporter_holds_for_requests(enter) -> None:
    a, b = enter("a"), enter("b")
    a.subscribe(b"svc.*", b"1")
    a.publish(b"svc.mapped", b"x")
    a.expect_msg(b"svc.real", b"1", b"x")
    b.publish(b"call.mapped", b"y")
    b.ping()
    assert arrived(a) == [b"svc.real 1"]


def test_a_responder_may_be_on_any_worker(enter) -> None:
    for _ in range(12):  # the kernel spreads them
        a, b = enter("a"), enter("b")
        b.subscribe(b"rep", b"9")
        a.subscribe(b"svc.far", b"1")
        b.publish(b"call.far", b"?", reply=b"rep")
        line = a.expect_line().split()
        a.read(int(line[-1]) + 2)
        a.publish(line[3], b"!")
        b.expect_msg(b"rep", b"9", b"!")
        a.finish()
        b.finish()


def asked_by(responder: WireClient) -> bytes:
    """The reply of the request that has come: a line, a header block, nothing."""
    line = responder.read_until(b"\r\n")
    responder.read_until(b"\r\n\r\n\r\n")
    return line.split()[3]


def test_nobody_answers_for_another_service(serve: Serve, dial: Dial) -> None:
    server = serve(
        """accounts {
          BANK { users: [ {user: bank, password: x} ], exports: [ {service: bank} ] }
          EVIL { users: [ {user: evil, password: x} ], exports: [ {service: evil} ] }
          A { users: [ {user: a, password: x} ], imports: [
            {service: {account: BANK, subject: bank}}
            {service: {account: EVIL, subject: evil}} ] }
        }"""
    )
    a, bank, evil = (
        dial(server).connect(headers=True, user=user, **{"pass": "x"})
        for user in ("a", "bank", "evil")
    )
    bank.subscribe(b"bank", b"1")
    evil.subscribe(b"evil", b"1")
    a.subscribe(b"answers.*", b"1")
    a.publish(b"evil", b"", reply=b"answers.evil")
    own = asked_by(evil)
    a.publish(b"bank", b"", reply=b"answers.bank")
    asked = asked_by(bank)
    evil.publish(asked, b"forged")
    evil.publish(own, b"right")
    evil.ping()
    a.expect_msg(b"answers.evil", b"1", b"right")
    bank.publish(asked, b"true")
    a.expect_msg(b"answers.bank", b"1", b"true")
    a.expect_silence()


def test_an_account_limits_the_subscriptions_of_each_connection(serve: Serve, dial: Dial) -> None:
    server = serve("accounts { A { users: [{user: a, password: x}], limits { max_subs: 3 } } }")
    for _ in range(2):
        client = dial(server).connect(user="a", **{"pass": "x"})
        client.send(b"".join(b"SUB a.%d %d\r\n" % (number, number) for number in range(4)))
        client.expect(b"-ERR 'maximum subscriptions exceeded'\r\n")
        client.send(b"UNSUB 1\r\nSUB b 9\r\n")
        client.expect_silence()
