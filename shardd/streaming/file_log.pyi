"""The log of one channel in segment files: the Python face."""

from collections.abc import Sequence

from shardd.streaming.batch import LogHome
from shardd.streaming.log import ChannelLog
from shardd.streaming.segment import Segment
from shardd.streaming.write_job import WriteJob

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
        """Have the next commit make the directory and an empty segment, if there is none."""

    @property
    def is_made(self) -> bool:
        """Whether it has a segment on disk."""

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
