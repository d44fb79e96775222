"""What a load is to be: its shape as the user asked for it, and the bytes that follow from that."""

from dataclasses import dataclass, field
from typing import Final

from shardd.config.streaming import NatsOptions

MESSAGES: Final = 100_000  # when neither messages nor a time are given
STAMP_BYTES: Final = 8  # of a payload, for the moment at which it was due
RESPONDERS: Final = "shardd-bench"  # the queue group of responders without a name

_BLOCK_BYTES: Final = 256 * 1024
# What the server delivers for one block, at most: a small part of the credit.
_BLOCK_OUTPUT_BYTES_MAX: Final = 2 * 1024 * 1024
# What may be on its way, over all subscribers: half of what a server lets one subscriber fall
# behind before it drops it, and far more than what keeps a server busy.
_CREDIT_BYTES: Final = 32 * 1024 * 1024
_FRAME_BYTES: Final = 64  # about what is around a payload on the wire
_ALPHABET: Final = b"0123456789abcdefghijklmnopqrstuvwxyz"
_STAMP: Final = "0" * 16


@dataclass(frozen=True, slots=True)
class Plan:
    """One load. `messages` and `seconds` are 0 where they are no limit; `rate` where there is none.

    With `is_request`, publishers are requesters and subscribers are responders.
    """

    subject: str
    publishers: int
    subscribers: int
    size: int
    messages: int = 0
    seconds: float = 0.0
    subjects: int = 1
    queue: str = ""
    rate: float = 0.0
    headers: tuple[tuple[str, str], ...] = ()
    is_request: bool = False
    patience_s: float = 10.0
    nats: NatsOptions = field(default_factory=NatsOptions)
    is_tls_first: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """What is published to, all of one width."""
        if self.subjects == 1:
            return (self.subject,)
        width = len(str(self.subjects - 1))
        return tuple(f"{self.subject}.{index:0{width}d}" for index in range(self.subjects))

    @property
    def pattern(self) -> str:
        """What is subscribed to."""
        return self.subject if self.subjects == 1 or not self.publishers else f"{self.subject}.*"

    @property
    def group(self) -> str:
        """The queue group of subscribers; responders always have one: one of them answers."""
        return self.queue or (RESPONDERS if self.is_request else "")

    @property
    def copies(self) -> int:
        """How many of the own subscribers get each message."""
        return min(1, self.subscribers) if self.group else self.subscribers

    @property
    def header_block(self) -> bytes:
        """The headers as they are sent; nothing when there are none."""
        if not self.headers:
            return b""
        lines = "".join(f"{key}: {value}\r\n" for key, value in self.headers)
        return b"NATS/1.0\r\n" + lines.encode() + b"\r\n"

    @property
    def body_bytes(self) -> int:
        """Of a message, headers included."""
        return self.size + len(self.header_block)

    @property
    def total(self) -> int:
        """How many messages or requests are sent; 0 when time says."""
        if self.rate and self.seconds:
            return max(1, round(self.rate * self.seconds))
        return self.messages

    def frame(self, subject: str, reply: str = "") -> bytes:
        """One message as it is published."""
        header = self.header_block
        words = ["HPUB" if header else "PUB", subject, reply, str(len(header) if header else "")]
        line = " ".join([*filter(None, words), str(self.body_bytes)])
        body = (_ALPHABET * (self.size // len(_ALPHABET) + 1))[: self.size]
        return line.encode() + b"\r\n" + header + body + b"\r\n"

    def block(self) -> tuple[bytes, int]:
        """Messages to all subjects in turn, to be sent over and over, and how many they are."""
        turn = b"".join(map(self.frame, self.names))
        room = _BLOCK_BYTES
        if self.copies:
            room = min(room, _BLOCK_OUTPUT_BYTES_MAX // self.copies)
        turns = max(1, room // len(turn))
        return turn * turns, turns * self.subjects

    @property
    def credit(self) -> int:
        """How many messages may be on their way to the own subscribers."""
        return max(1, _CREDIT_BYTES // (self.body_bytes + _FRAME_BYTES))

    @property
    def stamp_at(self) -> int:
        """Where in a message its moment stands."""
        return len(self.frame(self.names[0])) - 2 - self.size

    def request(self, index: int, inbox: str) -> tuple[bytes, int]:
        """The request of one connection, and where the moment stands in it."""
        reply = f"{inbox}.{_STAMP}"
        frame = self.frame(self.names[index % self.subjects], reply)
        return frame, frame.index(reply.encode()) + len(reply) - len(_STAMP)

    def quotas(self) -> list[int]:
        """How many messages each publisher sends; zeros where there is no limit."""
        each, more = divmod(self.total, self.publishers)
        return [each + (index < more) for index in range(self.publishers)]
