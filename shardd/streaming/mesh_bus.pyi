"""A streaming worker's way to NATS inside a host: the Python face."""

from collections.abc import Callable
from typing import final

from shardd.router.dispatch import Dispatcher
from shardd.router.doorbell import Doorbell
from shardd.router.mesh import Mesh
from shardd.streaming.bus import Bus

PRIVATE_ACCOUNT: int

@final
class MeshBus(Bus):
    begin_pass: Callable[[], object] | None
    end_pass: Callable[[], object] | None
    on_room: Callable[[], object] | None
    def __init__(
        self,
        dispatcher: Dispatcher,
        mesh: Mesh,
        doorbell: Doorbell,
        account: int,
        private_prefix: bytes,
    ) -> None: ...
    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def mesh(self) -> Mesh: ...
    @property
    def account(self) -> int: ...
    @property
    def messages_in(self) -> int: ...
    @property
    def messages_out(self) -> int: ...
    @property
    def subscriptions(self) -> int: ...
    def run(self, now_ms: int) -> None: ...
    def finish(self, now_ms: int) -> None: ...
    def close(self) -> None: ...
