"""Tokens that make no sense: whoever sends one is refused, and nothing else happens."""

import contextlib
from typing import Any

import pytest

from shardd.auth import certificates
from shardd.auth.authenticator import Authenticator
from shardd.auth.identity import Credentials
from shardd.auth.nkeys import KeyRole
from shardd.config.load import load_text
from shardd.config.model import ConnectionType
from shardd.errors import ProtocolError
from tests.support.nkeys import KeyPair, account_jwt, make_jwt, operator_jwt

OPERATOR = KeyPair(KeyRole.OPERATOR, 1)
ACCOUNT, STRANGER = KeyPair(KeyRole.ACCOUNT, 2), KeyPair(KeyRole.ACCOUNT, 3)
USER = KeyPair(KeyRole.USER, 4)

# What a stranger, or the holder of a signing key, can put into the claims of a user.
BODIES: list[dict[str, Any]] = [
    {"type": [1]},
    {"type": {"a": 1}},
    {"issuer_account": [1]},
    {"issuer_account": {}},
    {"times": 5},
    {"times": [5]},
    {"times": [{"start": "10:00:00Z", "end": "x"}]},
    {"times": [{"start": "00:00:00+01:00", "end": "23:59:59+01:00"}]},
    {"times_location": 5},
    {"resp": {"max": "x"}},
    {"resp": {"ttl": "x"}},
    {"resp": {"ttl": 10**400}},
    {"resp": {"max": 1e400}},
    {"pub": {"allow": 5}},
    {"sub": {"deny": [5]}},
    {"src": 5},
    {"src": [5]},
    {"allowed_connection_types": 5},
]
CLAIMS: list[dict[str, Any]] = [
    {"iat": 10**400},
    {"exp": -(10**400)},
    {"nbf": 1e308},
    {"exp": "soon"},
    {"name": 5},
    {"sub": 5},
]


def authenticator(**limits: Any) -> Authenticator:
    account = account_jwt(OPERATOR, ACCOUNT, limits=limits)
    text = f"""operator: {operator_jwt(OPERATOR)}
    resolver: MEMORY
    resolver_preload {{ {ACCOUNT.public}: "{account}" }}"""
    return Authenticator(load_text(text, "test.conf", {}).config)


def credentials(token: str) -> Credentials:
    return Credentials(jwt=token, connection_type=ConnectionType.STANDARD, ip="127.0.0.1")


@pytest.mark.parametrize("issuer", [ACCOUNT, STRANGER], ids=["signer", "stranger"])
@pytest.mark.parametrize("body", BODIES, ids=str)
def test_a_body_that_makes_no_sense_is_refused_or_read(
    body: dict[str, Any], issuer: KeyPair
) -> None:
    whole = {"type": "user", "bearer_token": True, "subs": -1} | body
    token = make_jwt(issuer, USER.public, whole)
    # What has no meaning for the server may be let in; nothing but a refusal may be raised.
    with contextlib.suppress(ProtocolError):
        authenticator().authenticate(credentials(token), 1_750_000_000.0)


@pytest.mark.parametrize("claims", CLAIMS, ids=lambda each: str(each)[:20])
def test_numbers_and_texts_out_of_range_are_refused(claims: dict[str, Any]) -> None:
    body = {"type": "user", "bearer_token": True}
    sub = claims.get("sub", USER.public)
    rest = {name: value for name, value in claims.items() if name != "sub"}
    token = make_jwt(ACCOUNT, sub, body, **rest)
    with pytest.raises(ProtocolError):
        authenticator().authenticate(credentials(token), 1_750_000_000.0)


def test_limits_beyond_what_is_counted_in_are_cut() -> None:
    token = make_jwt(ACCOUNT, USER.public, {"type": "user", "bearer_token": True, "subs": 2**70})
    identity = authenticator().authenticate(credentials(token), 1_750_000_000.0)
    assert 0 < identity.max_subscriptions < 2**63


def test_an_account_may_refuse_tokens_without_a_key() -> None:
    token = make_jwt(ACCOUNT, USER.public, {"type": "user", "bearer_token": True})
    assert authenticator().authenticate(credentials(token), 1_750_000_000.0).user == USER.public
    with pytest.raises(ProtocolError):
        authenticator(disallow_bearer=True).authenticate(credentials(token), 1_750_000_000.0)


def test_a_certificate_that_cannot_be_read_names_nobody() -> None:
    assert certificates.user_of(b"no certificate", ("alice",)) is None


def test_an_empty_token_is_not_compared_with_a_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    def compare(*_: str) -> bool:
        raise AssertionError("compared")

    monkeypatch.setattr("shardd.auth.passwords.is_password", compare)
    config = load_text('authorization { token: "$2a$04$abcdefghijklmnopqrstuv" }', "f", {}).config
    nobody = Credentials(connection_type=ConnectionType.STANDARD, ip="127.0.0.1")
    with pytest.raises(ProtocolError):
        Authenticator(config).authenticate(nobody, 0.0)
