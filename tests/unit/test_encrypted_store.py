"""Payloads encrypted at rest: what the contract's suite does not ask of an encrypted store."""

import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from shardd.config.streaming import KEY_VARIABLE
from shardd.errors import StoreError
from shardd.streaming.encrypted_store import (
    CODES,
    EncryptedStore,
    Keys,
    foreign_payload,
    is_foreign,
    key_of,
)
from shardd.streaming.log import ChannelLog
from shardd.streaming.log_probe import MESSAGE, append
from shardd.streaming.msgproto import decode
from shardd.streaming.seal import MARK, OVERHEAD, Seal
from shardd.streaming.store import Recovered, ServerRow, Store
from shardd.streaming.verify import verify
from tests.support.stores import (
    KEY,
    EncryptedFileHarness,
    FileHarness,
    append_all,
    encoded_messages,
    find,
    quick_directory,
)

SERVER = ServerRow("c", b"d.c", b"p", b"s", b"u", b"sc", b"cl", b"_INBOX.abc")
SECRET = b"nobody but the subscriber reads this"


class ChachaHarness(EncryptedFileHarness):
    """The same store with the other cipher."""

    cipher = "CHACHA"


class OtherKeyHarness(FileHarness):
    """Somebody who has another key."""

    def make(self) -> Store:
        return EncryptedStore(super().make(), Keys(b"another", "AES", self.calls.put))


@pytest.fixture
def place() -> Iterator[Path]:
    with quick_directory() as directory:
        yield directory / "store"


def seal(keys: Keys | None = None, channel: bytes = b"foo") -> Seal:
    return (keys or Keys(KEY, "AES", print)).seal(channel)


def only_log(recovered: Recovered) -> ChannelLog:
    (channel,) = recovered.channels
    return channel.log


def payloads(log: ChannelLog) -> list[bytes]:
    return [decode(each)[3] for each in encoded_messages(log)]


def fill(place: Path, kind: type[FileHarness], messages: list[bytes]) -> None:
    with kind(place) as harness:
        recovered = harness.open()
        if recovered.server is None:
            harness.opened.save_server(SERVER)
        logs = [each.log for each in recovered.channels]
        log = logs[0] if logs else harness.opened.create_channel(b"foo")
        append_all(log, messages)
        harness.commit_well()


def files(place: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file())


# --- seals ------------------------------------------------------------------------------------


@given(st.sampled_from(sorted(CODES)), st.binary(), st.binary(min_size=1))
def test_what_goes_in_comes_out_and_nobody_else_reads_it(cipher, key, data):
    keys = Keys(key, cipher, print)
    stored = seal(keys).encrypted(data)
    assert len(stored) == len(data) + OVERHEAD
    assert stored.startswith(MARK + bytes([CODES[cipher]]))
    # Another opening of the log, with whichever cipher it encrypts.
    for other in CODES:
        assert seal(Keys(key, other, print)).decrypted(stored) == data
    assert seal(keys, b"bar").decrypted(stored) is None
    assert seal(Keys(key + b"x", cipher, print)).decrypted(stored) is None


@given(st.binary(min_size=1), st.data())
def test_a_changed_byte_is_noticed(data, choice):
    one = seal()
    stored = bytearray(one.encrypted(data))
    at = choice.draw(st.integers(len(MARK), len(stored) - 1))
    stored[at] ^= choice.draw(st.integers(1, 255))
    assert one.decrypted(bytes(stored)) is None
    assert one.decrypted(bytes(stored[:at])) is None or at <= len(MARK)


@given(st.binary())
def test_what_is_not_encrypted_is_taken_as_it_is(data):
    assert seal().decrypted(data) == data


def test_no_nonce_comes_twice_and_they_are_counted_over_every_byte():
    start = b"\0" + b"\xff" * 10 + b"\xf0"
    ciphers = {1: AESGCM(bytes(32))}
    one = Seal(b"foo", 1, ciphers, start, print)
    nonces = [one.encrypted(b"x")[8:20] for _ in range(1000)]
    first = int.from_bytes(start)
    assert [int.from_bytes(each) for each in nonces] == list(range(first, first + 1000))
    # Whoever opens the log again begins elsewhere, though nothing was committed.
    assert len({seal().encrypted(b"x")[8:20] for _ in range(1000)}) == 1000
    wrapped = Seal(b"foo", 1, ciphers, b"\xff" * 12, print)
    assert [wrapped.encrypted(b"x")[8:20] for _ in range(2)] == [b"\xff" * 12, bytes(12)]


def test_ciphers_and_keys(monkeypatch):
    with pytest.raises(StoreError, match="encryption cipher not supported"):
        Keys(KEY, "DES", print)
    assert Keys(KEY, "", print).cipher in CODES
    assert Keys(KEY, "chacha", print).cipher == "CHACHA"
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    assert key_of("from the file") == b"from the file"
    with pytest.raises(StoreError, match="encryption key required"):
        key_of("")
    monkeypatch.setenv(KEY_VARIABLE, "from the environment")
    assert key_of("from the file") == b"from the environment"


def test_the_originals_messages_are_known_by_their_nonces():
    ciphers = Keys(KEY, "", print).ciphers(b"foo")
    for code, kind in ((1, AESGCM), (2, ChaCha20Poly1305)):
        nonce = os.urandom(4) + (77).to_bytes(8)
        stored = bytes([code]) + nonce + ciphers[code].encrypt(nonce, b"data", None)
        assert isinstance(ciphers[code], kind)
        assert is_foreign(75, stored)
        assert not is_foreign(1 << 40, stored)
        assert not is_foreign(75, b"\3" + stored[1:])
        assert foreign_payload(ciphers, stored) == b"data"
        assert foreign_payload(ciphers, stored[:-1]) is None
        assert foreign_payload({}, stored) is None
    assert not is_foreign(1, b"\1" * 28)
    assert foreign_payload(ciphers, b"") is None


@pytest.mark.parametrize(
    "stored",
    [
        "01da991a490000000000000001eee0b988aedc4aba2d1c1d27cc0dbae6e23c76dbc343850b",
        "023bf139b60000000000000001daaf7ca5d8d234907017c0fe8040fcd2124314a3122c039c",
    ],
)
def test_what_the_original_itself_encrypted_is_decrypted(stored):
    """Message 1 of `foo.bar`, as nats-streaming-server 0.25.6 wrote it, with either cipher."""
    assert is_foreign(1, bytes.fromhex(stored))
    ciphers = Keys(KEY, "", print).ciphers(b"foo.bar")
    assert foreign_payload(ciphers, bytes.fromhex(stored)) == b"a secret"


# --- a store ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [EncryptedFileHarness, ChachaHarness])
def test_no_file_has_a_payload_and_the_checksums_need_no_key(place, kind):
    fill(place, kind, [SECRET * 3, b"", SECRET])
    stored = files(place)
    assert SECRET not in stored
    assert KEY not in stored
    assert stored.count(MARK) == 2
    assert verify(place).is_sound
    with kind(place) as harness:
        assert payloads(only_log(harness.open())) == [SECRET * 3, b"", SECRET]


def test_the_cipher_changes_and_what_was_plain_stays_readable(place):
    # Bytes with which encrypted messages of the original begin, and half of this store's mark.
    plain = [b"\1" * 60, b"\2" * 60, MARK[:-1], SECRET]
    fill(place, FileHarness, plain)
    fill(place, EncryptedFileHarness, [b"aes", b"aes too"])
    fill(place, ChachaHarness, [b"chacha"])
    fill(place, EncryptedFileHarness, [b"aes again"])
    for kind in (EncryptedFileHarness, ChachaHarness):
        with kind(place) as harness:
            found = payloads(only_log(harness.open()))
            assert found == [*plain, b"aes", b"aes too", b"chacha", b"aes again"]


def test_another_key_is_refused_before_anything_is_read(place):
    fill(place, EncryptedFileHarness, [SECRET])
    before = files(place)
    with OtherKeyHarness(place) as harness, pytest.raises(StoreError) as refusal:
        harness.open()
    assert "the store was encrypted with another key" in str(refusal.value)
    assert "another" not in str(refusal.value).replace("another key", "")
    assert len(files(place)) == len(before)
    with EncryptedFileHarness(place) as harness:
        assert payloads(only_log(harness.open())) == [SECRET]


def test_a_store_that_was_plain_remembers_the_key_from_then_on(place):
    fill(place, FileHarness, [b"plain"])
    with EncryptedFileHarness(place) as harness:
        assert harness.open().server == SERVER
        assert harness.opened.has_changes
        harness.commit_well()
    with OtherKeyHarness(place) as other, pytest.raises(StoreError, match="another key"):
        other.open()


def test_a_message_that_cannot_be_decrypted_is_told_and_passed_over(place, caplog):
    fill(place, EncryptedFileHarness, [b"one", b"two", b"three", b"four"])
    with FileHarness(place) as harness:
        stored = payloads(only_log(harness.open()))
    bad = stored[1][:-1] + bytes([stored[1][-1] ^ 1])
    # The record is as it was written: its checksum says nothing.
    fill(place.with_name("bad"), FileHarness, [stored[0], bad, stored[2][:20], stored[3]])
    with EncryptedFileHarness(place.with_name("bad")) as harness, caplog.at_level(logging.ERROR):
        log = only_log(harness.open())
        assert find(log, 2)[:2] == (MESSAGE, 4)
        assert payloads(log) == [b"one", b"four"]
        assert log.messages == 4
    (told,) = [each.getMessage() for each in caplog.records]
    assert told.startswith("channel foo: message 2 cannot be decrypted")


def test_a_message_is_decrypted_once_in_a_turn_of_the_loop(place):
    with EncryptedFileHarness(place) as harness:
        harness.open()
        log = harness.opened.create_channel(b"foo")
        calls: list[int] = []
        aes = AESGCM(bytes(32))

        class Counting:
            encrypt = staticmethod(aes.encrypt)

            def decrypt(self, nonce, data, associated_data):
                calls.append(1)
                return aes.decrypt(nonce, data, associated_data)

        held: list[Seal] = []
        log.seal = Seal(b"foo", 1, {1: Counting()}, bytes(12), held.append)
        append(log, 1, SECRET)
        harness.commit_well()
        assert {find(log, 1) for _ in range(5)} == {find(log, 1)}
        assert (len(calls), held) == (1, [log.seal])
        held[0].release()
        assert find(log, 1)[0] == MESSAGE
        assert len(calls) == 2


def test_many_messages_of_all_sizes_come_back(place, seed):
    print(f"seed {seed}")
    random_ = random.Random(seed)
    messages = [random_.randbytes(random_.choice([0, 1, 40, 3000])) for _ in range(200)]
    fill(place, EncryptedFileHarness, messages[:100])
    fill(place, ChachaHarness, messages[100:])
    with EncryptedFileHarness(place) as harness:
        assert payloads(only_log(harness.open())) == messages
