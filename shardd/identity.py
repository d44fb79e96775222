"""Who this server is: the id that it draws at every start; and numbers for what it says.

The id has the form of a server's public nkey, because tools check it: 56 characters of base32,
`N` first, the last two bytes a checksum. No private key belongs to it, nothing is ever signed.
"""

import base64
import binascii
import os
import string
from typing import Final

SERVER_PREFIX: Final = 13 << 3  # the prefix byte whose base32 begins with N
KEY_BYTES: Final = 32
_ALPHABET: Final = string.digits + string.ascii_letters
_EVENT_ID_LENGTH: Final = 22


def new_server_id() -> str:
    """A new random server id: `N` and 55 characters."""
    body = bytes([SERVER_PREFIX]) + os.urandom(KEY_BYTES)
    checksum = binascii.crc_hqx(body, 0)  # CRC-16/XMODEM
    return base64.b32encode(body + checksum.to_bytes(2, "little")).decode("ascii")


def new_event_id() -> str:
    """A new random id of an event: 22 letters and digits, as nats-server's."""
    return "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in os.urandom(_EVENT_ID_LENGTH))
