"""The log of one channel in segment files: the Python face."""

from collections.abc import Callable, Sequence

from shardd.config.streaming import FileOptions
from shardd.streaming.log import ChannelLog
from shardd.streaming.segment import Segment

def reason_of(error: OSError) -> str:
    """What a publisher is told of it."""

def sync_directory(path: str) -> None:
    """Have the names in a directory on disk; OSError is not caught."""

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
    def dirty(self) -> list[FileLog]: ...
    @property
    def warm(self) -> set[FileLog]: ...
    @property
    def open(self) -> dict[Segment, None]: ...
    @property
    def descriptors_max(self) -> int: ...
    @property
    def dropped(self) -> list[str]: ...
    def take_dirty(self) -> list[FileLog]:
        """The logs that have something to write; they are not listed any more."""

    def take_dropped(self) -> list[str]:
        """The paths of segments to be removed; they are not listed any more."""

    def release_retired(self) -> None:
        """Free what was read ahead and nobody can be looking at any more."""

    def sweep(self) -> bool:
        """Let go of what has not been used since the last sweep; whether anything is left."""

class WriteJob:
    @property
    def log(self) -> FileLog: ...
    @property
    def error(self) -> OSError | None: ...
    def run(self) -> None:
        """Write, and have it on disk. In any thread. What failed is in `error`."""

class FileLog(ChannelLog):
    def __init__(self, home: LogHome, name: bytes, directory: str) -> None: ...
    @property
    def directory(self) -> str: ...
    @property
    def is_deleted(self) -> bool: ...
    def recover(self, segments: Sequence[Segment]) -> None:
        """Take the segments that were found, the oldest first, at least one."""

    def keep_from(self, first: int, last: int, bytes_: int) -> None:
        """Forget messages again that were dropped before the log was closed, though their segment
        is still there: what it was when it was closed."""

    def has_dropped(self) -> bool:
        """Whether segments hold messages that are not kept any more."""

    def create(self) -> None:
        """Have the next commit make the directory and an empty segment."""

    def begin_at(self, sequence: int) -> None:
        """Of an empty log: the sequence of the first message. ValueError: it is not empty."""

    def start_write(self, is_kept_open: bool) -> WriteJob | None:
        """Begin to commit what is appended; None when there is nothing."""

    def end_write(self, job: WriteJob) -> None:
        """The job has run."""

    def unsynced(self) -> list[Segment]:
        """The segments that are not on disk as a whole."""

    def delete(self) -> None:
        """Nothing is done with it any more."""

    def close(self) -> None:
        """Let go of everything, and leave sidecars behind; OSError is not caught."""

    def cool(self) -> bool:
        """Let go of what has not been used since the last time; whether anything is left."""
