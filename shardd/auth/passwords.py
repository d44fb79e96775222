"""Passwords and tokens against what the configuration says of them: plain text or a bcrypt hash.

A comparison takes as long whether the first or the last byte differs. One with bcrypt takes as long
as its cost asks for, tens of milliseconds, and belongs into a thread.
"""

import hmac
import re
from typing import Final

import bcrypt

# `$2a$`, `$2b$`, `$2x$` or `$2y$`, and a cost (sheet 7).
_HASH: Final = re.compile(r"\$2[abxy]\$[0-9]{2}\$.*", re.DOTALL)
_PASSWORD_BYTES_MAX: Final = 72  # what bcrypt can tell apart


def is_hash(configured: str) -> bool:
    """Whether the configuration holds a bcrypt hash."""
    return _HASH.fullmatch(configured) is not None


def is_password(configured: str, given: str) -> bool:
    """Whether this is the configured password."""
    if not is_hash(configured):
        return hmac.compare_digest(_bytes(configured), _bytes(given))
    try:
        return bcrypt.checkpw(_bytes(given)[:_PASSWORD_BYTES_MAX], _bytes(configured))
    except ValueError:  # no hash after all, or a password with a NUL byte
        return False


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
