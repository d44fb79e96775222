"""Keys, passwords and claims by themselves."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardd.auth import claims, nkeys, passwords
from shardd.auth.nkeys import KeyRole
from tests.support.nkeys import KeyPair, account_jwt, operator_jwt, user_jwt


@given(st.binary(min_size=32, max_size=32), st.sampled_from(KeyRole))
def test_a_key_s_text_is_read_back_for_its_role_only(key: bytes, role: KeyRole) -> None:
    text = nkeys.encode_public_key(key, role)
    assert len(text) == 56
    assert text[0] == {"ACCOUNT": "A", "CLUSTER": "C", "SERVER": "N", "OPERATOR": "O"}.get(
        role.name, "U"
    )
    for other in KeyRole:
        assert nkeys.is_public_key(text, other) == (other is role)
    assert nkeys.decode_public_key(text, role) == key


@given(st.integers(0, 55), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
def test_one_character_that_is_wrong_is_noticed(place: int, character: str) -> None:
    text = KeyPair(KeyRole.USER, 5).public
    changed = text[:place] + character + text[place + 1 :]
    # The last character holds bits that nothing uses.
    assert changed == text or place == 55 or not nkeys.is_public_key(changed, KeyRole.USER)


@given(st.text(max_size=80))
def test_any_text_is_a_signature_or_none(text: str) -> None:
    key = b"\x01" * 32
    assert not nkeys.is_signed(b"nonce", nkeys.decode_signature(text), key)


@pytest.mark.parametrize("text", ["", "s3cret", "$2a$", "$2b$1$x", "$3a$10$x"])
def test_what_is_no_hash_is_compared_as_it_is(text: str) -> None:
    assert not passwords.is_hash(text)
    assert passwords.is_password(text, text)
    assert not passwords.is_password(text, text + "x")


def test_a_broken_hash_lets_nobody_in() -> None:
    assert passwords.is_hash("$2a$10$broken")
    assert not passwords.is_password("$2a$10$broken", "$2a$10$broken")


OPERATOR, ACCOUNT = KeyPair(KeyRole.OPERATOR, 1), KeyPair(KeyRole.ACCOUNT, 2)
TOKEN = user_jwt(ACCOUNT, KeyPair(KeyRole.USER, 3), exp=2_000_000_000)


def test_a_token_is_read_and_its_time_kept() -> None:
    found = claims.decode(TOKEN)
    assert (found.kind, found.issuer) == ("user", ACCOUNT.public)
    found.check_time(1_900_000_000)
    with pytest.raises(claims.ClaimsError, match="expired"):
        found.check_time(2_000_000_001)
    assert claims.decode(operator_jwt(OPERATOR)).kind == "operator"
    assert claims.decode(account_jwt(OPERATOR, ACCOUNT)).kind == "account"


@given(st.integers(0, len(TOKEN) - 1), st.characters(codec="ascii", exclude_categories=["Cc"]))
def test_a_token_that_was_changed_is_refused_without_showing_it(place: int, character: str) -> None:
    changed = TOKEN[:place] + character + TOKEN[place + 1 :]
    told, found = "", None
    try:
        found = claims.decode(changed)
    except claims.ClaimsError as error:
        told = str(error)
    assert TOKEN[:40] not in told
    assert found is None or found == claims.decode(TOKEN)


@given(st.text())
def test_any_text_is_a_token_or_refused(text: str) -> None:
    with pytest.raises(claims.ClaimsError):
        claims.decode(text)


def test_an_account_cannot_be_signed_by_an_account() -> None:
    with pytest.raises(claims.ClaimsError, match="cannot be issued"):
        claims.decode(account_jwt(ACCOUNT, ACCOUNT))


@pytest.mark.parametrize(
    ("now", "is_allowed"),
    [(9 * 3600, True), (8 * 3600 - 1, False), (17 * 3600, False)],
)
def test_times_of_day_are_kept(now: int, is_allowed: bool) -> None:
    nats = {"times": [{"start": "08:00:00", "end": "17:00:00"}], "times_location": "UTC"}
    if is_allowed:
        assert claims.allowed_until(nats, now) == 17 * 3600
    else:
        with pytest.raises(claims.ClaimsError):
            claims.allowed_until(nats, now)
