"""What the load generator sends and expects, encoded beforehand.

The generator counts bytes, so all frames of a run must have one length: subjects are padded to
one width, sids too, and the payload is the same in every message. A payload never contains the
beginning of a frame, so a frame that is out of place cannot be mistaken for one in its place.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

BLOCK_BYTES: Final = 256 * 1024
# What the server delivers for one block, at most: a small part of the credit, so that the
# publisher's steps stay small against what is on its way.
BLOCK_OUTPUT_BYTES_MAX: Final = 2 * 1024 * 1024

HELLO: Final = (
    b'CONNECT {"verbose":false,"pedantic":false,"echo":true,"headers":true,"protocol":0,'
    b'"lang":"bench","version":"1.0"}\r\nPING\r\n'
)

_ALPHABET: Final = b"0123456789abcdefghijklmnopqrstuvwxyz"


class FrameError(Exception):
    """A stream held a frame that nobody published, or frames of a run differ in length."""


@dataclass(frozen=True, slots=True)
class Subscription:
    """One SUB line."""

    subject: str
    sid: str
    queue: str = ""

    def encode(self) -> bytes:
        """The line as it is sent."""
        queue = f" {self.queue}" if self.queue else ""
        return f"SUB {self.subject}{queue} {self.sid}\r\n".encode()


@dataclass(frozen=True, slots=True)
class Block:
    """Frames to be sent over and over."""

    data: bytes
    frames: int


def subject(index: int) -> str:
    """A subject; all have one width."""
    return f"bench.{index:05d}"


def sid(index: int) -> str:
    """A subscription's id; all have one width."""
    return f"{index:05d}"


def payload(size: int) -> bytes:
    """`size` bytes of digits and lower-case letters."""
    return (_ALPHABET * (size // len(_ALPHABET) + 1))[:size]


def encode_pub(name: str, body: bytes, reply: str = "") -> bytes:
    """A PUB frame."""
    between = f" {reply}" if reply else ""
    return f"PUB {name}{between} {len(body)}\r\n".encode() + body + b"\r\n"


def encode_msg_header(name: str, sid_text: str, size: int, reply: str = "") -> bytes:
    """The control line of a MSG frame, as the server must deliver it."""
    between = f" {reply}" if reply else ""
    return f"MSG {name} {sid_text}{between} {size}\r\n".encode()


def make_block(names: Sequence[str], payload_bytes: int, copies: int) -> Block:
    """Frames for `names` in turn, as many whole turns as fit; `copies` go out for each frame."""
    body = payload(payload_bytes)
    turn = b"".join(encode_pub(name, body) for name in names)
    room = BLOCK_BYTES
    if copies:
        # A delivered frame is about as long as a published one.
        room = min(room, BLOCK_OUTPUT_BYTES_MAX // copies)
    turns = max(1, room // len(turn))
    return Block(turn * turns, turns * len(names))


def only_width(texts: Iterable[str]) -> int:
    """The one length that all of `texts` have."""
    widths = {len(text) for text in texts}
    if len(widths) != 1:
        raise FrameError(f"texts of different widths: {sorted(widths)}")
    return widths.pop()


def matches(pattern: str, name: str) -> bool:
    """Whether a subscription to `pattern` gets a message published to `name`."""
    wanted, tokens = pattern.split("."), name.split(".")
    for place, token in enumerate(wanted):
        if token == ">":
            return len(tokens) > place
        if place >= len(tokens) or token not in ("*", tokens[place]):
            return False
    return len(wanted) == len(tokens)


def check_header(
    header: bytes, subscriptions: Sequence[Subscription], published: frozenset[str], size: int
) -> None:
    """Raise unless `header` is the control line of a message that this connection should get."""
    fields = header.decode("ascii", "replace").split(" ")
    if len(fields) == 4 and fields[0] == "MSG" and fields[3] == f"{size}\r\n":
        _, name, sid_text, _ = fields
        if name in published and any(
            wanted.sid == sid_text and matches(wanted.subject, name) for wanted in subscriptions
        ):
            return
    raise FrameError(f"a frame that nobody published: {header!r}")
