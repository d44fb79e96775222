"""Operator mode: accounts and users that are nothing but claims somebody signed."""

import time

import pytest

from shardd.auth.nkeys import KeyRole
from tests.support.fixtures import Dial, Serve
from tests.support.nkeys import KeyPair, account_jwt, operator_jwt, user_jwt
from tests.support.wireclient import WireClient

OPERATOR, OPERATOR_SIGNER = (KeyPair(KeyRole.OPERATOR, number) for number in (1, 2))
SYSTEM, APP, OTHER, STRANGER = (KeyPair(KeyRole.ACCOUNT, number) for number in (3, 4, 5, 6))
SIGNER, SCOPED = (KeyPair(KeyRole.ACCOUNT, number) for number in (7, 8))
USER, REVOKED = KeyPair(KeyRole.USER, 9), KeyPair(KeyRole.USER, 10)
VIOLATION = b"Authorization Violation"

SCOPE = {
    "kind": "user_scope",
    "key": SCOPED.public,
    "role": "limited",
    "template": {"subs": -1, "data": -1, "payload": -1, "pub": {"allow": ["scoped.>"]}, "sub": {}},
}


def configuration() -> str:
    """An operator with a system account and two others, one of which exports to the other."""
    app = account_jwt(
        OPERATOR_SIGNER,
        APP,
        signing_keys=[SIGNER.public, SCOPE],
        revocations={REVOKED.public: 1_800_000_000},
        limits={"conn": 2},
        exports=[{"name": "data", "subject": "data.>", "type": "stream"}],
    )
    imports = [{"name": "data", "subject": "data.x", "account": APP.public, "type": "stream"}]
    other = account_jwt(OPERATOR, OTHER, imports=imports, default_permissions={"pub": {}})
    return f"""
operator: {operator_jwt(OPERATOR, OPERATOR_SIGNER)}
system_account: {SYSTEM.public}
resolver: MEMORY
resolver_preload: {{
  {SYSTEM.public}: {account_jwt(OPERATOR, SYSTEM)}
  {APP.public}: {app}
  {OTHER.public}: {other}
}}
"""


@pytest.fixture
def enter(serve: Serve, dial: Dial):
    """`enter(token, key)`: one more connection that has sent its CONNECT and a PING."""
    server = serve(configuration())

    def open_client(token: str, key: KeyPair = USER, sig: str | None = None) -> WireClient:
        client = dial(server)
        assert client.info["auth_required"] is True
        if sig is None:
            sig = key.sign(client.info["nonce"])
        options = f'{{"jwt":"{token}","sig":"{sig}","verbose":false,"protocol":1}}'
        client.send(b"CONNECT ", options.encode(), b"\r\nPING\r\n")
        return client

    return open_client


def test_users_of_accounts_and_of_their_signers_are_let_in(enter) -> None:
    for account, issuer, more in (
        (APP, APP, {}),
        (APP, SIGNER, {"issuer_account": APP.public}),
        (SYSTEM, SYSTEM, {}),
    ):
        client = enter(user_jwt(issuer, USER, **more))
        client.expect(b"PONG\r\n")
        info = client.expect_line()
        assert b'"remote_account":"%b"' % account.public.encode() in info
        assert (b'"acc_is_sys":true' in info) == (account is SYSTEM)
        client.finish()


def test_what_is_not_signed_as_it_should_be_is_refused(enter) -> None:
    good = user_jwt(APP, USER)
    head, body, signature = good.split(".")
    for token, sig in (
        (user_jwt(STRANGER, USER), None),
        (user_jwt(STRANGER, USER, issuer_account=APP.public), None),
        (user_jwt(OTHER, USER, issuer_account=APP.public), None),
        (user_jwt(APP, REVOKED), REVOKED.sign("nothing")),
        (good, USER.sign("another nonce")),
        (good, ""),
        (f"{head}.{body}.{signature[:-4]}AAAA", None),
        (account_jwt(OPERATOR, APP), None),
        ("nonsense", None),
        ("", None),
    ):
        enter(token, USER, sig).expect_fatal(VIOLATION)


def test_time_is_kept(enter) -> None:
    now = int(time.time())
    enter(user_jwt(APP, USER, exp=now - 10)).expect_fatal(VIOLATION)
    enter(user_jwt(APP, USER, nbf=now + 1000)).expect_fatal(VIOLATION)
    client = enter(user_jwt(APP, USER, exp=now + 2))
    client.expect(b"PONG\r\n")
    client.expect_line()
    client.expect_fatal(b"User Authentication Expired")


def test_revoked_users_are_refused(enter) -> None:
    enter(user_jwt(APP, REVOKED), REVOKED).expect_fatal(VIOLATION)


def test_claims_hold_permissions(enter) -> None:
    # A scoped key's users have nothing of their own.
    scoped = user_jwt(SCOPED, USER, issuer_account=APP.public, subs=0, data=0, payload=0)
    for token, allowed, refused in (
        (user_jwt(APP, USER, pub={"allow": ["a.>"]}), b"a.b", b"b"),
        (scoped, b"scoped.a", b"other"),
    ):
        client = enter(token)
        client.expect(b"PONG\r\n")
        client.expect_line()
        client.publish(allowed, b"x")
        client.expect_silence()
        client.publish(refused, b"x")
        client.expect_error(b'Permissions Violation for Publish to "%b"' % refused)
        client.finish()


def test_claims_with_permissions_that_cannot_be_read_are_refused(enter) -> None:
    for name, entry in (
        ("pub", ""),
        ("pub", "a b"),
        ("pub", " a"),
        ("sub", "a..b"),
        ("sub", "a b c"),
        ("sub", "a  b"),
        ("sub", "a b..c"),
    ):
        for kind in ("allow", "deny"):
            enter(user_jwt(APP, USER, **{name: {kind: ["good", entry]}})).expect_fatal(VIOLATION)


def test_claims_with_a_pattern_that_cannot_match_are_taken_at_their_word(enter) -> None:
    for kind, is_allowed in (("allow", False), ("deny", True)):
        rules = {kind: [">.a", "good >.a"]}
        client = enter(user_jwt(APP, USER, sub=rules, pub={kind: [">.a"]}))
        client.expect(b"PONG\r\n")
        client.expect_line()
        client.send(b"PUB a 0\r\n\r\nSUB good >.a 1\r\nPING\r\n")
        answer = client.read_until(b"PONG\r\n")
        assert answer.count(b"Permissions Violation") == (0 if is_allowed else 2)
        client.finish()


def test_claims_may_do_without_a_signature(enter) -> None:
    enter(user_jwt(APP, USER, bearer_token=True), sig="").expect(b"PONG\r\n")


def test_claims_say_where_from_and_how(enter) -> None:
    enter(user_jwt(APP, USER, src=["10.0.0.0/8"])).expect_fatal(VIOLATION)
    enter(user_jwt(APP, USER, allowed_connection_types=["WEBSOCKET"])).expect_fatal(VIOLATION)
    enter(user_jwt(APP, USER, src=["127.0.0.0/8"])).expect(b"PONG\r\n")


def test_an_account_s_claims_limit_its_connections(enter) -> None:
    for _ in range(2):
        enter(user_jwt(APP, USER)).expect(b"PONG\r\n")
    enter(user_jwt(APP, USER)).expect_fatal(b"maximum account active connections exceeded")


def test_claims_import_what_others_export(enter) -> None:
    publisher, subscriber = enter(user_jwt(APP, USER)), enter(user_jwt(OTHER, USER))
    for client in (publisher, subscriber):
        client.expect(b"PONG\r\n")
        client.expect_line()
    subscriber.subscribe(b"data.>", b"1")
    publisher.publish(b"data.y", b"1")
    publisher.publish(b"data.x", b"2")
    subscriber.expect_msg(b"data.x", b"1", b"2")
