"""A doorbell among the descriptors that a process watches: the Python face."""

from typing import final

from shardd.poller import Source
from shardd.router.doorbell import Doorbell

@final
class Bell(Source):
    def __init__(self, doorbell: Doorbell) -> None: ...
