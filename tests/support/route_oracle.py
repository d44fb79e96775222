"""The plain-Python twin of `shardd.routes.wire`: obvious instead of fast, and written on its own.

It knows the rules of the route protocol (sheet 10.5 and 10.6) and uses whole-line tools for them.
Operations are the plain tuples that `shardd.routes.wire.parse` gives.
"""

import enum
import re
from dataclasses import dataclass
from typing import Final

from tests.support.wire_oracle import Operation, Result


class Trouble(enum.IntEnum):
    """The answers of the parser that are not a count of bytes."""

    INCOMPLETE = 0
    UNKNOWN_OPERATION = -1
    LINE_TOO_LONG = -2
    PAYLOAD_TOO_LARGE = -3
    BAD_ARGUMENTS = -4


@dataclass(frozen=True)
class Limits:
    """The limits of one route, named as the parser's door names them."""

    control_line_max: int = 65_536
    payload_max: int = 128 * 1_048_576
    has_account: bool = True


class _Stop(Exception):
    """Not an error: it ends the parsing of one input."""

    def __init__(self, trouble: Trouble, needed: int = 0) -> None:
        self.trouble = trouble
        self.needed = needed


_BLANKS: Final = b" \t\r"
_MESSAGES: Final = (b"RMSG", b"HMSG", b"LMSG")
_INTEREST: Final = (b"RS+", b"LS+")
_NO_INTEREST: Final = (b"RS-", b"LS-")
# The others, by the number that the parser gives them.
_PLAIN: Final = {
    b"PING": 4,
    b"PONG": 5,
    b"CONNECT": 6,
    b"INFO": 7,
    b"+OK": 8,
    b"-ERR": 9,
    b"A+": 10,
    b"A-": 10,
    b"SUB": 10,
    b"UNSUB": 10,
}
_VERBS: Final = (*_MESSAGES, *_INTEREST, *_NO_INTEREST, *_PLAIN)


def _may_begin(data: bytes, verb: bytes) -> bool:
    if data[: len(verb)].upper() != verb[: len(data)]:
        return False
    return len(data) <= len(verb) or data[len(verb)] in _BLANKS


def _number(token: bytes) -> int | None:
    return int(token) if re.fullmatch(rb"[0-9]{1,9}", token) else None


def _line(data: bytes, limits: Limits) -> tuple[bytes, int]:
    """The first control line, and how many bytes it takes with its end."""
    end = data.find(b"\n", 0, limits.control_line_max + 2)
    if end < 0:
        if data and not any(_may_begin(data, verb) for verb in _VERBS):
            raise _Stop(Trouble.UNKNOWN_OPERATION)
        is_too_long = len(data) > limits.control_line_max + 1
        raise _Stop(Trouble.LINE_TOO_LONG if is_too_long else Trouble.INCOMPLETE)
    return data[:end].removesuffix(b"\r"), end + 1


def _one(data: bytes, limits: Limits) -> tuple[Operation, int]:
    """The first operation, and how many bytes it takes."""
    line, taken = _line(data, limits)
    verb = next(
        (each for each in _VERBS if len(line) >= len(each) and _may_begin(line, each)), None
    )
    if verb is None:
        raise _Stop(Trouble.UNKNOWN_OPERATION)
    if len(line) > limits.control_line_max:
        raise _Stop(Trouble.LINE_TOO_LONG)
    if verb in _PLAIN:
        return (_PLAIN[verb], line[len(verb) :].strip(_BLANKS)), taken
    tokens = list(re.finditer(rb"[^ \t\r]+", line[len(verb) :]))
    if verb.startswith(b"L"):
        tokens = tokens[1:]  # the cluster that it came from; without one, nothing else is there
    account = None
    if limits.has_account:
        account = tokens[0].group() if tokens else None
        tokens = tokens[1:]
    words = [token.group() for token in tokens]
    if verb not in _MESSAGES:
        return _interest(account, words, is_wanted=verb in _INTEREST), taken
    operation = _message(account, words, limits, has_header=verb == b"HMSG")
    behind = len(verb) + tokens[0].end()
    return _with_payload(operation, data, taken, behind)


def _interest(account: bytes | None, words: list[bytes], *, is_wanted: bool) -> Operation:
    name = "interest" if is_wanted else "no interest"
    if len(words) == 1:
        return (name, account, words[0], None, 1)
    if len(words) != (3 if is_wanted else 2):
        raise _Stop(Trouble.BAD_ARGUMENTS)
    weight = _number(words[2]) or 0 if is_wanted else 0
    return (name, account, words[0], words[1], weight)


def _message(
    account: bytes | None, words: list[bytes], limits: Limits, *, has_header: bool
) -> Operation:
    """All but payload and tail: the size stands in their place."""
    sizes_count = 2 if has_header else 1
    if len(words) < 1 + sizes_count:
        raise _Stop(Trouble.BAD_ARGUMENTS)
    subject, *between = words[:-sizes_count]
    sizes = [_number(word) for word in words[-sizes_count:]]
    header_len, total_len = sizes[0], sizes[-1]
    if header_len is None or total_len is None or header_len > total_len:
        raise _Stop(Trouble.BAD_ARGUMENTS)
    if total_len > limits.payload_max:
        raise _Stop(Trouble.PAYLOAD_TOO_LARGE)
    reply, queues = None, None
    if between[:1] == [b"|"]:
        queues = between[1:]
    elif between[:1] == [b"+"]:
        if len(between) < 2:
            raise _Stop(Trouble.BAD_ARGUMENTS)
        reply, queues = between[1], between[2:]
    elif len(between) > 1:
        raise _Stop(Trouble.BAD_ARGUMENTS)
    elif between:
        reply = between[0]
    length = header_len if has_header else None
    return ("message", account, subject, reply, queues, length, total_len)


def _with_payload(
    operation: Operation, data: bytes, taken: int, behind: int
) -> tuple[Operation, int]:
    *head, total_len = operation
    assert isinstance(total_len, int)
    _, _, _, reply, queues, header_len = head
    end = taken + total_len
    if not b"\r\n".startswith(data[end : end + 2]):
        raise _Stop(Trouble.UNKNOWN_OPERATION)
    if len(data) < end + 2:
        raise _Stop(Trouble.INCOMPLETE, end + 2)
    payload = data[taken:end]
    sizes = [b"%d" % size for size in (header_len, total_len) if isinstance(size, int)]
    words = [b"", *([reply] if isinstance(reply, bytes) else []), *sizes]
    plain = b" ".join(words) + b"\r\n" + payload + b"\r\n"
    tail = data[behind : end + 2]
    # Headers of no bytes are none that a client could be told of in this way.
    is_canonical = queues is None and tail == plain and header_len != 0
    return (*head, payload, tail if is_canonical else None), end + 2


def parse(data: bytes, limits: Limits) -> Result:
    """Parses `data` up to the first operation that is incomplete or wrong."""
    operations: list[Operation] = []
    consumed = 0
    while consumed < len(data):
        try:
            operation, length = _one(data[consumed:], limits)
        except _Stop as stop:
            return Result(operations, consumed, stop.needed, int(stop.trouble))
        operations.append(operation)
        consumed += length
    return Result(operations, consumed, 0, 0)
