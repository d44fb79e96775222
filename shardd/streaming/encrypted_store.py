"""A store that keeps payloads encrypted, around any other, and the keys that it does that with.

Payloads are encrypted where they enter a channel's log and decrypted where they leave it (`seal`),
so that the store inside, its files and its database see nothing but ciphertext. Everything else
(channels, sequences, times, replies, clients, subscriptions) is as it is.

How a channel's key is made of the operator's, and which ciphers there are, is the original's way
(sheet 13), so that what the original stored can be read (`foreign_payload`).
"""

import hashlib
import hmac
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from shardd.config.streaming import KEY_VARIABLE
from shardd.errors import StoreError
from shardd.streaming.log import ChannelLog
from shardd.streaming.seal import Seal
from shardd.streaming.store import (
    ClientRow,
    CommitResult,
    Recovered,
    ServerRow,
    Store,
    SubscriptionRow,
)

CODES: Final[Mapping[str, int]] = {"AES": 1, "CHACHA": 2}

_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16
_CHECKED: Final = b"shardd: the key of this store"
# Nonces of the original count with sequences; what was taken back or sent twice moves them apart.
_DRIFT_MAX: Final = 1 << 24
# Where AES is as fast as memory.
_AES_MACHINES: Final = ("x86_64", "amd64", "i386", "i686")

Aead = AESGCM | ChaCha20Poly1305
CallSoon = Callable[[Callable[[], object]], object]


def key_of(configured: str) -> bytes:
    """The operator's key: the environment's, which wins, or the configured one.

    Raises:
        StoreError: there is none.
    """
    key = os.environb.get(KEY_VARIABLE.encode()) or configured.encode("utf-8", "surrogateescape")
    if not key:
        raise StoreError(f"encryption key required: give it in {KEY_VARIABLE}")
    return key


class Keys:
    """What is made of the operator's key.

    Args:
        key: any bytes; the longer and the more random, the better.
        cipher: AES or CHACHA, in any case; "" for what is fast on this machine.
        call_soon: calls what it is given in a turn of the event loop of its own.

    Raises:
        StoreError: there is no such cipher.
    """

    def __init__(self, key: bytes, cipher: str, call_soon: CallSoon) -> None:
        default = "AES" if platform.machine().lower() in _AES_MACHINES else "CHACHA"
        self.cipher = cipher.upper() or default
        if self.cipher not in CODES:
            raise StoreError("encryption cipher not supported")
        self._master = hashlib.sha256(key).digest()
        self._call_soon = call_soon
        self._holding: list[Seal] = []

    @property
    def check(self) -> bytes:
        """What a store remembers to know the key again; it says nothing of the key."""
        return hmac.digest(self._master, _CHECKED, "sha256")

    def ciphers(self, channel: bytes) -> dict[int, Aead]:
        """Those of a channel, by code."""
        zeros = bytes(len(self._master) + 1 + len(channel))  # an accident of the original
        key = hashlib.sha256(zeros + self._master + b"." + channel).digest()
        return {CODES["AES"]: AESGCM(key), CODES["CHACHA"]: ChaCha20Poly1305(key)}

    def seal(self, channel: bytes) -> Seal:
        """A channel's seal, for one opening of its log."""
        nonce = os.urandom(_NONCE_BYTES)
        return Seal(channel, CODES[self.cipher], self.ciphers(channel), nonce, self._on_held)

    def _on_held(self, seal: Seal) -> None:
        if not self._holding:
            self._call_soon(self._release)
        self._holding.append(seal)

    def _release(self) -> None:
        holding, self._holding = self._holding, []
        for seal in holding:
            seal.release()


def is_foreign(sequence: int, data: bytes) -> bool:
    """Whether a payload in a store of the original is encrypted, as far as can be seen without a
    key: its nonce counts with its sequence."""
    if len(data) < 1 + _NONCE_BYTES + _TAG_BYTES or data[0] not in CODES.values():
        return False
    return abs(int.from_bytes(data[5 : 1 + _NONCE_BYTES]) - sequence) < _DRIFT_MAX


def foreign_payload(ciphers: Mapping[int, Aead], data: bytes) -> bytes | None:
    """What the original encrypted, decrypted; None: this key did not encrypt it."""
    cipher = ciphers.get(data[0]) if len(data) >= 1 + _NONCE_BYTES + _TAG_BYTES else None
    if cipher is None:
        return None
    try:
        return cipher.decrypt(data[1 : 1 + _NONCE_BYTES], data[1 + _NONCE_BYTES :], None)
    except InvalidTag:
        return None


class EncryptedStore(Store):
    """Any store, with its payloads encrypted."""

    def __init__(self, inner: Store, keys: Keys) -> None:
        self._inner = inner
        self._keys = keys

    @property
    def is_fenced(self) -> bool:
        """As the store inside."""
        return self._inner.is_fenced

    def try_lock(self) -> bool:
        """That of the store inside."""
        return self._inner.try_lock()

    def recover(self) -> Recovered:
        """Reads everything.

        Raises:
            StoreError: as of the store inside; or it was written with another key.
        """
        recovered = self._inner.recover()
        server, check = recovered.server, self._keys.check
        if server is not None and not hmac.compare_digest(server.key_check or check, check):
            self._inner.close()
            raise StoreError(
                "the store was encrypted with another key: give the one that it was made with, in"
                f" {KEY_VARIABLE} or as encryption_key"
            )
        if server is not None and not server.key_check:
            # Encryption is on from now on.
            self.save_server(server)
        for channel in recovered.channels:
            channel.log.seal = self._keys.seal(channel.log.name)
        return recovered

    def create_channel(self, name: bytes) -> ChannelLog:
        """A new, empty log."""
        log = self._inner.create_channel(name)
        log.seal = self._keys.seal(name)
        return log

    def save_server(self, row: ServerRow) -> None:
        """With what tells the key again."""
        self._inner.save_server(replace(row, key_check=self._keys.check))

    def delete_channel(self, name: bytes) -> None:
        """As of the store inside, as all that follows."""
        self._inner.delete_channel(name)

    def save_client(self, row: ClientRow) -> None:
        """Adds or replaces by client id."""
        self._inner.save_client(row)

    def forget_client(self, client_id: str) -> None:
        """Removes by client id."""
        self._inner.forget_client(client_id)

    def save_subscription(self, channel: bytes, row: SubscriptionRow) -> None:
        """Adds or replaces by id."""
        self._inner.save_subscription(channel, row)

    def forget_subscription(self, channel: bytes, subscription_id: int) -> None:
        """Removes by id."""
        self._inner.forget_subscription(channel, subscription_id)

    def save_position(
        self, channel: bytes, subscription_id: int, last_sent: int, pending: Sequence[int]
    ) -> None:
        """How far a subscription is."""
        self._inner.save_position(channel, subscription_id, last_sent, pending)

    @property
    def has_changes(self) -> bool:
        """Whether a commit would have something to do."""
        return self._inner.has_changes

    @property
    def is_committing(self) -> bool:
        """Whether a commit is under way."""
        return self._inner.is_committing

    def commit(self, on_done: Callable[[CommitResult], None]) -> None:
        """Begins to write all that is queued."""
        self._inner.commit(on_done)

    def close(self) -> None:
        """Lets go of everything."""
        self._inner.close()
