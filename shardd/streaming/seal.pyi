"""The payloads of one channel, encrypted and decrypted: the Python face."""

from collections.abc import Callable
from typing import Any, Final

MARK: Final[bytes]
OVERHEAD: Final[int]

class Seal:
    def __init__(
        self,
        name: bytes,
        code: int,
        ciphers: dict[int, Any],
        nonce: bytes,
        on_held: Callable[[Seal], object],
    ) -> None: ...
    def encrypted(self, data: bytes) -> bytes: ...
    def decrypted(self, data: bytes) -> bytes | None: ...
    def release(self) -> None: ...
