"""Who takes what NATS hands to a streaming worker: the Python face."""

from collections.abc import Iterable
from typing import Any, Final, final

from shardd.streaming.bus import Receiver
from shardd.streaming.channel import Channel
from shardd.streaming.commit_batch import Batch
from shardd.streaming.subscription import Subscription
from shardd.streaming.traffic import Traffic

PUBLISH: Final[int]
DISCOVER: Final[int]
PINGS: Final[int]
SUBSCRIBE: Final[int]
UNSUBSCRIBE: Final[int]
SUB_CLOSE: Final[int]
CLOSE: Final[int]
INQUIRY: Final[int]
ADMIN: Final[int]
POOL: Final[int]
POOL_ALL: Final[int]
POOL_PUBLISH: Final[int]
FT: Final[int]
POOL_FT: Final[int]
ACKS: Final[int]
DYNAMIC: Final[int]

@final
class StreamingReceiver(Receiver):
    batch: Batch
    server: Any
    is_strict: bool
    def __init__(self, traffic: Traffic, parts: Iterable[int], prefix_len: int) -> None: ...
    @property
    def traffic(self) -> Traffic: ...
    @property
    def channels(self) -> dict[bytes, Channel]: ...
    @property
    def connections(self) -> dict[bytes, Any]: ...
    @property
    def clients(self) -> dict[bytes, Any]: ...
    @property
    def subscriptions(self) -> list[dict[int, Subscription]]: ...
    @property
    def foreign(self) -> dict[int, Subscription]: ...
    def set_prefix(self, prefix_len: int) -> None: ...
    def forget(self) -> None: ...
