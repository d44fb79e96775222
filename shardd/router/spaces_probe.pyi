"""A door to the C face of accounts, for tests."""

from typing import TypeAlias, final

from shardd.router.spaces import Spaces

Delivery: TypeAlias = tuple[bytes, bytes, bytes, bytes, bytes]

@final
class SpaceProbe:
    def __init__(self, spaces: Spaces, account: int) -> None: ...
    @property
    def got(self) -> list[Delivery]: ...
    @property
    def sids(self) -> set[bytes]: ...
    def subscribe(self, sid: bytes, subject: bytes, queue: bytes | None = ...) -> None: ...
    def unsubscribe(self, sid: bytes, max_deliveries: int = ...) -> None: ...
    def publish(
        self,
        subject: bytes,
        payload: bytes,
        reply: bytes = ...,
        header: bytes = ...,
        echo: bool = ...,
    ) -> int: ...
    def close(self) -> None: ...
