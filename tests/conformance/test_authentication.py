"""Who may come in: tokens, users, keys, certificates of nobody, and what each is told."""

import bcrypt
import pytest

from shardd.auth.nkeys import KeyRole
from tests.support.fixtures import Dial, Serve
from tests.support.nkeys import KeyPair

VIOLATION = b"Authorization Violation"
HASH = bcrypt.hashpw(b"s3cret", bcrypt.gensalt(4)).decode()
ALICE = KeyPair(KeyRole.USER, 7)
BOB = KeyPair(KeyRole.USER, 8)

TOKEN = 'authorization { token: "s3cret" }'
ONE_USER = "authorization { user: one, password: s3cret }"
USERS = f"""
authorization {{
  users: [
    {{user: plain, password: s3cret}}
    {{user: hashed, password: "{HASH}"}}
    {{user: open}}
    {{user: web, password: s3cret, allowed_connection_types: ["WEBSOCKET"]}}
    {{nkey: {ALICE.public}}}
  ]
}}
"""


@pytest.mark.parametrize(
    ("text", "options"),
    [
        (TOKEN, {"auth_token": "s3cret"}),
        (f'authorization {{ token: "{HASH}" }}', {"auth_token": "s3cret"}),
        (ONE_USER, {"user": "one", "pass": "s3cret"}),
        (USERS, {"user": "plain", "pass": "s3cret"}),
        (USERS, {"user": "hashed", "pass": "s3cret"}),
        (USERS, {"user": "open"}),
    ],
    ids=["token", "hashed token", "one user", "user", "hashed user", "no password"],
)
def test_good_credentials_are_let_in(serve: Serve, dial: Dial, text: str, options: dict) -> None:
    client = dial(serve(text))
    assert client.info["auth_required"] is True
    client.connect(protocol=1, **options)
    assert client.second_info["remote_account"] == "$G"
    client.subscribe(b"a", b"1")
    client.publish(b"a", b"x")
    client.expect_msg(b"a", b"1", b"x")


def test_bad_credentials_are_refused_whatever_is_wrong_with_them(serve: Serve, dial: Dial) -> None:
    server = serve(USERS)
    for options in (
        b'{"user":"plain","pass":"wrong"}',
        b'{"user":"plain"}',
        b'{"user":"hashed","pass":"wrong"}',
        b'{"user":"nobody","pass":"s3cret"}',
        b'{"user":"web","pass":"s3cret"}',
        b'{"auth_token":"s3cret"}',
        b"{}",
    ):
        client = dial(server)
        client.send(b"CONNECT ", options, b"\r\nPING\r\n")
        client.expect_fatal(VIOLATION)
    assert "s3cret" not in server.log_text()
    assert "wrong" not in server.log_text()


@pytest.mark.parametrize("text", [TOKEN, ONE_USER], ids=["token", "one user"])
def test_one_secret_is_not_enough_for_the_other_way(serve: Serve, dial: Dial, text: str) -> None:
    server = serve(text)
    for options in (b'{"auth_token":"no"}', b'{"user":"one","pass":"no"}', b"{}"):
        client = dial(server)
        client.send(b"CONNECT ", options, b"\r\n")
        client.expect_fatal(VIOLATION)


@pytest.mark.parametrize("verb", [b"PING\r\n", b"SUB a 1\r\n", b"x"])
def test_nothing_is_handled_before_connect(serve: Serve, dial: Dial, verb: bytes) -> None:
    client = dial(serve(ONE_USER))
    client.send(verb)
    client.expect_fatal(VIOLATION)


def test_who_stays_silent_is_asked_to_leave(serve: Serve, dial: Dial) -> None:
    server = serve("authorization { user: one, password: s3cret, timeout: 1.0 }")
    silent, quick = dial(server), dial(server)
    quick.connect(user="one", **{"pass": "s3cret"})
    silent.expect_fatal(b"Authentication Timeout")
    quick.ping()


def test_keys_sign_the_nonce(serve: Serve, dial: Dial) -> None:
    server = serve(USERS)
    for is_standard in (False, True):
        client = dial(server)
        assert len(client.info["nonce"]) == 15
        sig = ALICE.sign(client.info["nonce"], is_standard=is_standard)
        client.connect(nkey=ALICE.public, sig=sig)
    for key, signer, text in ((ALICE, BOB, None), (BOB, BOB, None), (ALICE, ALICE, "other")):
        client = dial(server)
        sig = signer.sign(text or client.info["nonce"])
        client.send(b'CONNECT {"nkey":"%b","sig":"%b"}\r\n' % (key.public.encode(), sig.encode()))
        client.expect_fatal(VIOLATION)


def test_a_nonce_is_another_one_each_time(serve: Serve, dial: Dial) -> None:
    server = serve(USERS)
    assert dial(server).info["nonce"] != dial(server).info["nonce"]


def test_the_user_of_who_says_nothing(serve: Serve, dial: Dial) -> None:
    server = serve("no_auth_user: guest\nauthorization { users: [ {user: guest, password: x} ] }")
    client = dial(server)
    assert "auth_required" not in client.info
    client.send(b"SUB a 1\r\nPING\r\n")
    client.expect(b"+OK\r\nPONG\r\n")
    dial(server).connect()
    wrong = dial(server)
    wrong.send(b'CONNECT {"user":"other"}\r\n')
    wrong.expect_fatal(VIOLATION)


def test_a_second_connect_proves_itself_again(serve: Serve, dial: Dial) -> None:
    server = serve(USERS)
    client = dial(server).connect(user="plain", **{"pass": "s3cret"})
    client.subscribe(b"a", b"1")
    client.send(b'CONNECT {"user":"hashed","pass":"s3cret","verbose":false}\r\nPING\r\n')
    client.expect(b"PONG\r\n")
    client.publish(b"a", b"x")
    client.expect_silence()  # what it had subscribed to is gone
    client.send(b'CONNECT {"user":"hashed","pass":"no"}\r\n')
    client.expect_fatal(VIOLATION)


def test_accounts_are_spaces_of_their_own(serve: Serve, dial: Dial) -> None:
    server = serve("""
accounts {
  A { users: [ {user: a, password: x}, {user: a2, password: x} ] }
  B { users: [ {user: b, password: x} ] }
  SYS { users: [ {user: s, password: x} ] }
}
system_account: SYS
""")
    clients = {}
    for user, account in (("a", "A"), ("a2", "A"), ("b", "B"), ("s", "SYS")):
        client = clients[user] = dial(server).connect(protocol=1, user=user, **{"pass": "x"})
        assert client.second_info["remote_account"] == account
        assert client.second_info.get("acc_is_sys", False) == (account == "SYS")
        client.subscribe(b"news", b"1")
    clients["a2"].publish(b"news", b"x")
    clients["a2"].expect_msg(b"news", b"1", b"x")
    clients["a"].expect_msg(b"news", b"1", b"x")
    clients["b"].expect_silence()


def test_an_account_has_so_many_connections(serve: Serve, dial: Dial) -> None:
    server = serve("""
accounts { A { users: [ {user: a, password: x} ], limits { max_conn: 2, max_payload: 5 } } }
""")
    first = dial(server).connect(protocol=1, user="a", **{"pass": "x"})
    assert first.second_info["max_payload"] == 5
    dial(server).connect(user="a", **{"pass": "x"})
    third = dial(server)
    third.send(b'CONNECT {"user":"a","pass":"x"}\r\nPING\r\n')
    third.expect_fatal(b"maximum account active connections exceeded")
    first.send(b"PUB a 6\r\n")
    first.expect_fatal(b"Maximum Payload Violation")
