"""Signing as a client of somebody else's server: nkey seeds, and the files that hold them.

A seed is base32 of two prefix bytes (that it is a seed, and of which role), the 32 bytes of the
private key, and a CRC-16/XMODEM of all that. A credentials file holds a JWT and a seed between
lines of dashes. No IO.
"""

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shardd.auth.nkeys import KeyRole, encode_public_key

_SEED_PREFIX: Final = 18 << 3  # S
_SEED_BYTES: Final = 36
_BLOCK: Final = re.compile(r"-+BEGIN ([A-Z ]+)-+\s+(\S+)\s+-+END [A-Z ]+-+")


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key that answers a server's nonce."""

    _key: Ed25519PrivateKey = field(repr=False)
    public_key: str

    def sign(self, nonce: str) -> str:
        """The signature of a nonce, as CONNECT carries it."""
        signature = self._key.sign(nonce.encode())
        return base64.urlsafe_b64encode(signature).decode("ascii").rstrip("=")


@dataclass(frozen=True, slots=True)
class UserCredentials:
    """What a credentials file holds."""

    jwt: str = field(repr=False)
    signer: Signer


def read_seed(text: str) -> Signer:
    """A user's seed, with blanks around it.

    Raises:
        ValueError: it is none; the text says why and does not hold it.
    """
    try:
        raw = base64.b32decode(text.strip() + "=" * (-len(text.strip()) % 8))
    except (binascii.Error, ValueError):
        raise ValueError("a seed is upper-case base32") from None
    body, checksum = raw[:-2], int.from_bytes(raw[-2:], "little")
    if len(raw) != _SEED_BYTES or binascii.crc_hqx(body, 0) != checksum:
        raise ValueError("the seed's length or checksum does not fit")
    role = (body[0] & 7) << 5 | body[1] >> 3
    if body[0] & 0xF8 != _SEED_PREFIX or role != KeyRole.USER:
        raise ValueError("not the seed of a user")
    key = Ed25519PrivateKey.from_private_bytes(body[2:])
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return Signer(key, encode_public_key(public, KeyRole.USER))


def read_credentials(text: str) -> UserCredentials:
    """A credentials file. Raises ValueError as `read_seed` does."""
    blocks = dict(_BLOCK.findall(text))
    jwt = next((value for name, value in blocks.items() if "JWT" in name), "")
    seed = next((value for name, value in blocks.items() if "SEED" in name), "")
    if not jwt or not seed:
        raise ValueError("it does not hold a user's JWT and a seed")
    return UserCredentials(jwt, read_seed(seed))
