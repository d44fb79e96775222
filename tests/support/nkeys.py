"""Keys and claims for tests: users that sign, accounts and operators that vouch for them."""

import base64
import binascii
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shardd.auth.nkeys import KeyRole, encode_public_key


class KeyPair:
    """One key with its secret, made from a number so that runs repeat."""

    def __init__(self, role: KeyRole, number: int) -> None:
        self._secret = Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
        self.public = encode_public_key(self._secret.public_key().public_bytes_raw(), role)
        # Five bits that it is a seed, eight whose it is, in two bytes.
        body = bytes((0x90 | role >> 5, (role & 31) << 3)) + self._secret.private_bytes_raw()
        checksum = binascii.crc_hqx(body, 0).to_bytes(2, "little")
        self.seed = base64.b32encode(body + checksum).decode().rstrip("=")

    def sign(self, text: str, *, is_standard: bool = False) -> str:
        """A signature as clients send it, in URL-safe or in standard base64."""
        signature = self._secret.sign(text.encode())
        if is_standard:
            return base64.b64encode(signature).decode()
        return base64.urlsafe_b64encode(signature).decode().rstrip("=")


def make_jwt(issuer: KeyPair, subject: str, nats: dict[str, Any], **claims: Any) -> str:
    """Signed claims of version 2."""
    body = {"jti": "test", "iat": 1_700_000_000, "iss": issuer.public, "sub": subject}
    body |= {"name": "test", "nats": {"version": 2} | nats} | claims
    parts = [_encode({"typ": "JWT", "alg": "ed25519-nkey"}), _encode(body)]
    return ".".join([*parts, issuer.sign(".".join(parts))])


def operator_jwt(operator: KeyPair, *signers: KeyPair) -> str:
    """An operator's claims about itself."""
    keys = [each.public for each in signers]
    return make_jwt(operator, operator.public, {"type": "operator", "signing_keys": keys})


def account_jwt(operator: KeyPair, account: KeyPair, **nats: Any) -> str:
    """An account's claims, without limits unless told otherwise."""
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    limits |= {"wildcards": True} | nats.pop("limits", {})
    claims = {name: nats.pop(name) for name in ("exp", "nbf") if name in nats}
    body = {"type": "account", "limits": limits} | nats
    return make_jwt(operator, account.public, body, **claims)


def user_jwt(issuer: KeyPair, user: KeyPair, **nats: Any) -> str:
    """A user's claims, without limits unless told otherwise."""
    claims = {name: nats.pop(name) for name in ("exp", "nbf", "iat") if name in nats}
    limits = {"subs": -1, "data": -1, "payload": -1}
    return make_jwt(issuer, user.public, {"type": "user"} | limits | nats, **claims)


def _encode(value: dict[str, Any]) -> str:
    text = json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).decode().rstrip("=")
