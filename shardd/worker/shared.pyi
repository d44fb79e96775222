"""What all connections of one worker share: the Python face."""

from random import Random
from typing import Any, final

from shardd.config.core import Config
from shardd.outbound import OutboundSet
from shardd.poller import Poller
from shardd.router.dispatch import Dispatcher
from shardd.router.mesh import Mesh
from shardd.router.sublist import Sublist
from shardd.slots import Slots
from shardd.timers import Deadlines
from shardd.worker.info import InfoTemplate

@final
class Shared:
    def __init__(
        self,
        config: Config,
        info: InfoTemplate,
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
    def info(self) -> InfoTemplate: ...
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
    def tick(self) -> None: ...
