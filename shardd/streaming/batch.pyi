"""What the logs of one file store have in memory: the Python face."""

from collections.abc import Callable
from typing import Any

from shardd.config.streaming import FileOptions
from shardd.streaming.segment import Segment

class LogHome:
    """What the logs of one store share.

    Args:
        options: sizes and durability.
        on_warm: called when a log begins to hold what `sweep` could let go.
        on_retired: called when `release_retired` should be called as soon as control has returned
            to the event loop.
    """

    def __init__(
        self,
        options: FileOptions,
        on_warm: Callable[[], object],
        on_retired: Callable[[], object],
    ) -> None: ...
    @property
    def dirty(self) -> list[Any]: ...
    @property
    def warm(self) -> set[Any]: ...
    @property
    def open(self) -> dict[Segment, None]: ...
    @property
    def descriptors_max(self) -> int: ...
    @property
    def dropped(self) -> list[str]: ...
    def take_dirty(self) -> list[Any]:
        """The logs that have something to write; they are not listed any more."""

    @property
    def purged(self) -> list[Any]: ...
    def take_purged(self) -> list[Any]:
        """The logs whose `first` is to be remembered; they are not listed any more."""

    def take_dropped(self) -> list[str]:
        """The paths of segments to be removed; they are not listed any more."""

    def release_retired(self) -> None:
        """Free what was read ahead and nobody can be looking at any more."""

    def sweep(self) -> bool:
        """Let go of what has not been used since the last sweep; whether anything is left."""
