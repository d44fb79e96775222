"""NATS keys: Ed25519 keys as text, signatures over a nonce.

A public key is 56 characters: base32 without padding of one prefix byte that tells its role, the
32 bytes of the key, and a CRC-16/XMODEM of both, little-endian (sheet 7). No IO; randomness is
handed in.
"""

import base64
import binascii
import enum
from typing import Final

NONCE_BYTES: Final = 11  # what INFO's nonce is made of
_KEY_BYTES: Final = 32
_TEXT_LENGTH: Final = 56


class KeyRole(enum.IntEnum):
    """What a key is for: its prefix byte, whose first five bits are its first letter."""

    ACCOUNT = 0  # A
    CLUSTER = 2 << 3  # C
    SERVER = 13 << 3  # N
    OPERATOR = 14 << 3  # O
    USER = 20 << 3  # U


def make_nonce(random_bytes: bytes) -> str:
    """What a client is asked to sign: base64url without padding, as in INFO."""
    return base64.urlsafe_b64encode(random_bytes).decode("ascii").rstrip("=")


def decode_public_key(text: str, role: KeyRole) -> bytes:
    """The 32 bytes of a public key of this role.

    Raises:
        ValueError: the text is not one; it says why.
    """
    if len(text) != _TEXT_LENGTH:
        raise ValueError(f"a key has {_TEXT_LENGTH} characters")
    try:
        raw = base64.b32decode(text)
    except (binascii.Error, ValueError):
        raise ValueError("a key is upper-case base32") from None
    body, checksum = raw[:-2], int.from_bytes(raw[-2:], "little")
    if binascii.crc_hqx(body, 0) != checksum:
        raise ValueError("the key's checksum does not fit")
    if body[0] != role:
        raise ValueError(f"not a public {role.name.lower()} key")
    return body[1:]


def encode_public_key(key: bytes, role: KeyRole) -> str:
    """The text of a public key."""
    if len(key) != _KEY_BYTES:
        raise ValueError(f"a key has {_KEY_BYTES} bytes")
    body = bytes((role,)) + key
    checksum = binascii.crc_hqx(body, 0).to_bytes(2, "little")
    return base64.b32encode(body + checksum).decode("ascii")


def is_public_key(text: str, role: KeyRole) -> bool:
    """Whether this is the text of a public key of this role."""
    try:
        decode_public_key(text, role)
    except ValueError:
        return False
    return True


def decode_signature(text: str) -> bytes:
    """A signature as clients send it: base64, URL-safe or standard, padded or not. Empty when it
    is none."""
    plain = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return b""


def is_signed(message: bytes, signature: bytes, public_key: bytes) -> bool:
    """Whether the owner of this key signed this message (RFC 8032)."""
    # A server without keys starts faster without it; others have it before they fork.
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True
