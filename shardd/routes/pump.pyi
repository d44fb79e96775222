"""One pass of the router: the Python face."""

from collections.abc import Callable
from typing import final

from shardd.outbound import OutboundSet
from shardd.poller import Poller
from shardd.router.doorbell import Doorbell
from shardd.router.mesh import Mesh
from shardd.routes.relay import Relay

@final
class Pump:
    def __init__(
        self,
        poller: Poller,
        outbounds: OutboundSet,
        relay: Relay,
        mesh: Mesh,
        doorbell: Doorbell,
        on_room: Callable[[], None],
    ) -> None: ...
    def run(self) -> None: ...
    def finish(self) -> None: ...
    def read_clock(self) -> None: ...
