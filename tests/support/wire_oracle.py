"""The plain-Python twin of `shardd.wire`: obvious instead of fast, and written on its own.

It knows the rules of the client protocol (what nats-server 2.15.1 does, with the parser's stated
differences) and uses whole-line tools for them: partition, regular expressions, slices. Operations
are the plain tuples that `shardd.wire.parse` gives.
"""

import enum
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Operation = tuple[object, ...]


class Trouble(enum.IntEnum):
    """The answers of the parser that are not a count of bytes."""

    INCOMPLETE = 0
    UNKNOWN_OPERATION = -1
    CONTROL_LINE_TOO_LONG = -2
    PAYLOAD_TOO_LARGE = -3
    BAD_ARGUMENTS = -4
    HEADERS_NOT_ALLOWED = -5


@dataclass(frozen=True)
class Limits:
    """The limits of one connection, named as the parser's door names them."""

    control_line_max: int = 4096
    payload_max: int = 1_048_576
    headers: bool = True


@dataclass(frozen=True)
class Result:
    """What parsing a whole input gives."""

    operations: list[Operation]
    consumed: int
    needed: int
    trouble: int


class _Stop(Exception):
    """Not an error: it ends the parsing of one input."""

    def __init__(self, trouble: Trouble, needed: int = 0) -> None:
        self.trouble = trouble
        self.needed = needed


# Every verb a client may send, and whether a blank must follow it.
_VERBS = {
    b"PUB": True,
    b"HPUB": True,
    b"SUB": True,
    b"UNSUB": True,
    b"-ERR": True,
    b"PING": False,
    b"PONG": False,
    b"+OK": False,
    b"CONNECT": False,
    b"INFO": False,
}


def _verb(data: bytes) -> bytes:
    """The verb that `data` starts with."""
    upper = data.upper()
    for verb in _VERBS:
        if upper.startswith(verb):
            return verb
    if any(verb.startswith(upper) for verb in _VERBS):
        raise _Stop(Trouble.INCOMPLETE)
    raise _Stop(Trouble.UNKNOWN_OPERATION)


def _control_line(data: bytes, limits: Limits) -> tuple[bytes, bytes, bytes]:
    """Verb, arguments without leading blanks, and the bytes after the line."""
    verb = _verb(data)
    rest = data[len(verb) :]
    if _VERBS[verb] and rest and rest[:1] not in {b" ", b"\t"}:
        raise _Stop(Trouble.UNKNOWN_OPERATION)
    line = rest.lstrip(b" \t")
    if len(rest) - len(line) > limits.control_line_max:
        raise _Stop(Trouble.CONTROL_LINE_TOO_LONG)
    arguments, newline, after = line.partition(b"\n")
    arguments = arguments.removesuffix(b"\r")
    if len(arguments) > limits.control_line_max:
        raise _Stop(Trouble.CONTROL_LINE_TOO_LONG)
    if not newline:
        raise _Stop(Trouble.INCOMPLETE)
    return verb, arguments, after


def _number(token: bytes) -> int | None:
    return int(token) if re.fullmatch(rb"[0-9]{1,9}", token) else None


def _publish(data: bytes, limits: Limits) -> tuple[Operation, int]:
    verb, arguments, after = _control_line(data, limits)
    has_header = verb == b"HPUB"
    if has_header and not limits.headers:
        raise _Stop(Trouble.HEADERS_NOT_ALLOWED)
    tokens = re.findall(rb"[^ \t]+", arguments)
    size_count = 2 if has_header else 1
    if b"\r" in arguments or len(tokens) not in {size_count + 1, size_count + 2}:
        raise _Stop(Trouble.BAD_ARGUMENTS)
    subject, *replies = tokens[:-size_count]
    sizes = [_number(token) for token in tokens[-size_count:]]
    header_len, total_len = sizes[0], sizes[-1]
    if header_len is None or total_len is None or header_len > total_len:
        raise _Stop(Trouble.BAD_ARGUMENTS)
    if 0 <= limits.payload_max < total_len:
        raise _Stop(Trouble.PAYLOAD_TOO_LARGE)

    payload, line_end = after[:total_len], after[total_len : total_len + 2]
    if not b"\r\n".startswith(line_end):
        raise _Stop(Trouble.UNKNOWN_OPERATION)
    consumed = len(data) - len(after) + total_len + 2
    if len(line_end) < 2:
        raise _Stop(Trouble.INCOMPLETE, needed=consumed)

    tail = data[data.index(subject, len(verb)) + len(subject) : consumed]
    plain_words = [b"", *replies, *(b"%d" % size for size in sizes if size is not None)]
    plain_tail = b" ".join(plain_words) + b"\r\n" + payload + b"\r\n"
    operation = (
        verb.decode(),
        subject,
        replies[0] if replies else None,
        header_len if has_header else None,
        payload,
        tail == plain_tail,
        tail,
    )
    return operation, consumed


def _line_operation(data: bytes, limits: Limits) -> tuple[Operation, int]:
    verb, arguments, after = _control_line(data, limits)
    consumed = len(data) - len(after)
    name = verb.decode()
    # Outside of a publish, a carriage return inside the line separates like a blank.
    tokens = re.findall(rb"[^ \t\r]+", arguments)
    if verb == b"SUB":
        if len(tokens) not in {2, 3}:
            raise _Stop(Trouble.BAD_ARGUMENTS)
        queue = tokens[1] if len(tokens) == 3 else None
        return (name, tokens[0], queue, tokens[-1]), consumed
    if verb == b"UNSUB":
        if len(tokens) not in {1, 2}:
            raise _Stop(Trouble.BAD_ARGUMENTS)
        maximum = _number(tokens[1]) if len(tokens) == 2 else None
        return (name, tokens[0], maximum or 0), consumed
    if verb in {b"CONNECT", b"INFO", b"-ERR"}:
        return (name, arguments.rstrip(b" \t")), consumed
    return (name,), consumed


def parse(data: bytes, limits: Limits) -> Result:
    """Parses `data` up to the first operation that is incomplete or wrong."""
    operations: list[Operation] = []
    consumed = 0
    while True:
        rest = data[consumed:]
        try:
            is_publish = _verb(rest) in {b"PUB", b"HPUB"}
            read = _publish if is_publish else _line_operation
            operation, length = read(rest, limits)
        except _Stop as stop:
            return Result(operations, consumed, stop.needed, int(stop.trouble))
        operations.append(operation)
        consumed += length


def parse_in_pieces(parser: Callable[[bytes], Result], pieces: Iterable[bytes]) -> Result:
    """What a caller gets that keeps the unread tail, adds each piece and calls again."""
    operations: list[Operation] = []
    consumed = 0
    tail = b""
    result = parser(tail)
    for piece in pieces:
        tail += piece
        result = parser(tail)
        operations += result.operations
        consumed += result.consumed
        tail = tail[result.consumed :]
        if result.trouble:
            break
    return Result(operations, consumed, result.needed, result.trouble)
