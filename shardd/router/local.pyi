"""A client without a socket: the Python face."""

from collections.abc import Callable
from typing import final

from shardd.router.dispatch import Dispatcher

@final
class LocalClient:
    def __init__(
        self,
        dispatcher: Dispatcher,
        callback: Callable[[bytes, bytes, bytes, bytes, bytes], object],
    ) -> None: ...
    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def is_closed(self) -> bool: ...
    @property
    def subscriptions(self) -> int: ...
    def subscribe(
        self, subject: bytes, queue: bytes | None, sid: bytes, account: int = 0
    ) -> bool: ...
    def unsubscribe(self, sid: bytes, max_deliveries: int = 0) -> None: ...
    def publish(
        self,
        subject: bytes,
        payload: bytes,
        reply: bytes = b"",
        header: bytes = b"",
        echo: bool = True,
        account: int = 0,
    ) -> int: ...
    def is_wanted(self, subject: bytes, account: int = 0) -> bool: ...
    def close(self) -> None: ...
