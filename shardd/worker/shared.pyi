"""What all connections of one worker share: the Python face."""

from collections.abc import Callable
from random import Random
from typing import Any, Protocol, final

from shardd.auth.identity import Credentials, Identity
from shardd.config.core import Config
from shardd.errors import ProtocolError
from shardd.outbound import OutboundSet
from shardd.poller import Poller
from shardd.quotas import Quotas
from shardd.router.dispatch import Dispatcher
from shardd.router.mesh import Mesh
from shardd.router.sublist import Sublist
from shardd.slots import Slots
from shardd.timers import Deadlines
from shardd.worker.gate import Gate

class LoopFace(Protocol):
    def clock(self) -> float: ...
    def soon(self, callback: Callable[[], None]) -> None: ...
    def aside(
        self,
        gate: Gate,
        credentials: Credentials,
        callback: Callable[[Identity | None, ProtocolError | None], None],
        is_wanted: Callable[[], bool],
    ) -> None: ...

@final
class Shared:
    observer: Any
    def __init__(
        self,
        config: Config,
        loop: LoopFace,
        quotas: Quotas,
        poller: Poller,
        outbounds: OutboundSet,
        dispatcher: Dispatcher,
        mesh: Mesh,
        deadlines: Deadlines,
        seed: int,
    ) -> None: ...
    @property
    def poller(self) -> Poller: ...
    @property
    def outbounds(self) -> OutboundSet: ...
    @property
    def dispatcher(self) -> Dispatcher: ...
    @property
    def sublist(self) -> Sublist: ...
    @property
    def mesh(self) -> Mesh: ...
    @property
    def deadlines(self) -> Deadlines: ...
    @property
    def slots(self) -> Slots: ...
    @property
    def gate(self) -> Gate: ...
    @property
    def quotas(self) -> Quotas: ...
    @property
    def random(self) -> Random: ...
    @property
    def connections(self) -> dict[int, Any]: ...
    @property
    def deferred(self) -> list[Any]: ...
    @property
    def paused(self) -> list[Any]: ...
    @property
    def stalled(self) -> list[Any]: ...
    def apply(self, config: Config) -> None: ...
    def set_gate(self, gate: Gate) -> None: ...
    def set_guard(self, prefix: bytes, guard: Callable[[bytes, bytes], bytes | None]) -> None:
        """Publishing to a subject that begins like this takes a second right:
        `guard(subject, payload)` says to which subject, or None."""

    def new_nonce(self) -> str: ...
    def clock(self) -> float: ...
    def soon(self, callback: Callable[[], None]) -> None: ...
    def tick(self) -> None: ...
