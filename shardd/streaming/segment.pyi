"""One segment file of a channel's log: the Python face."""

from shardd.errors import StoreError

SUFFIX: str
SIDECAR_SUFFIX: str
SEGMENT_SIZE_MAX: int

class DamagedHeader(StoreError):
    """A segment file whose header was not written like that. `is_torn`: no message was in it."""

    is_torn: bool

class Segment:
    fd: int
    busy: bool
    is_used: bool
    def __init__(self, path: str, channel: bytes, first: int, before_ns: int) -> None:
        """A segment that is not yet a file.

        Args:
            path: where it will be.
            channel: whose messages it holds.
            first: the sequence of its first message.
            before_ns: the timestamp of the message before that.
        """

    @property
    def path(self) -> str: ...
    @property
    def channel(self) -> bytes: ...
    @property
    def first(self) -> int: ...
    @property
    def count(self) -> int: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def before_ns(self) -> int: ...
    @property
    def first_ns(self) -> int: ...
    @property
    def last_ns(self) -> int: ...
    @property
    def is_new(self) -> bool: ...
    @property
    def durable(self) -> int: ...
    @property
    def has_sidecar(self) -> bool: ...
    @property
    def known_count(self) -> int: ...
    @property
    def known_end(self) -> int: ...
    @property
    def payload_bytes(self) -> int:
        """The encoded MsgProtos together."""

    @staticmethod
    def open(path: str) -> Segment:
        """A segment that is a file, with nothing known of its records yet.

        Raises:
            DamagedHeader: its header is not what was written.
            StoreError: it cannot be read, or a later version wrote it.
        """

    def load_sidecar(self) -> bool:
        """Take from the sidecar what the file holds, or its older part. False: there is none that
        fits, and nothing has changed."""

    def scan(self) -> str:
        """Read on to the end of the file. What was found there: "" for sound records only, "torn"
        for the rest of a write, "damaged" for what had once been committed; `end` is where.

        Raises:
            StoreError: it cannot be read.
        """

    def damaged(self) -> list[tuple[int, int]]:
        """Reads every record that it is known to have; sequence and offset of each that is not as
        it was written.

        Raises:
            StoreError: it cannot be read.
        """

    def keep(self, count: int) -> None:
        """Believe in the first so many records only."""

    def header(self) -> bytes:
        """The header as it stands in the file."""

    def write_sidecar(self) -> None:
        """Write what is known of the records beside the file; OSError is not caught."""

    def truncate(self) -> int:
        """Cut the file behind the last record, on disk; how many bytes went. OSError is not
        caught."""

    def sync(self) -> None:
        """Have the file on disk; OSError is not caught."""

    def was_written(self, durable: int) -> None:
        """It is a file now, and so much of it is on disk."""

    def search(self, timestamp_ns: int) -> int:
        """The first record that is not older; `count` when there is none.

        Raises:
            StoreError: it cannot be read.
        """

    def close(self) -> None:
        """Let go of the file."""

    def forget_offsets(self) -> None:
        """They are loaded again when they are needed."""

    def is_idle(self) -> bool:
        """Whether it holds neither a descriptor nor offsets that can be loaded again."""
