"""A log record as a line: nats-server's form, or one JSON object.

    [pid] 2026/11/23 02:05:56.758015 [INF] text
    {"time":"2026-11-23T02:05:56.758015Z","level":"info","pid":42,"message":"text"}

Text that came from a peer cannot start a line of its own, nor end a JSON text: control characters
are written as escapes in both.
"""

import json
import logging
import re
import time
from datetime import UTC, datetime
from typing import Final

TRACE: Final = 5  # below DEBUG: the protocol itself

_TAGS: Final = {
    TRACE: ("TRC", "\x1b[33m"),
    logging.DEBUG: ("DBG", "\x1b[36m"),
    logging.INFO: ("INF", "\x1b[32m"),
    logging.WARNING: ("WRN", "\x1b[0;93m"),
    logging.ERROR: ("ERR", "\x1b[31m"),
    logging.CRITICAL: ("FTL", "\x1b[31m"),
}
TAGS: Final = {level: tag for level, (tag, _) in _TAGS.items()}
_WORDS: Final = {
    TRACE: "trace",
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warning",
    logging.ERROR: "error",
    logging.CRITICAL: "fatal",
}
_COLOUR_OFF: Final = "\x1b[0m"
_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    ord("\t"): "\t",
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
# What stands at the begin of every line about one client or one route.
_CONNECTION: Final = re.compile(r"(\S{1,120}) - (cid|rid):(\d{1,19})(?!\d)", re.ASCII)


class LineFormatter(logging.Formatter):
    """Records to lines. A traceback becomes lines of the same form."""

    _has_prefix = True

    def __init__(
        self,
        *,
        logtime: bool = True,
        logtime_utc: bool = False,
        colours: bool = False,
        process_label: str = "",
    ) -> None:
        super().__init__()
        self._split_time = (time.gmtime if logtime_utc else time.localtime) if logtime else None
        self._process_label = process_label
        self._tags = {
            level: f"[{colour}{tag}{_COLOUR_OFF}] " if colours else f"[{tag}] "
            for level, (tag, colour) in _TAGS.items()
        }
        self._second = -1
        self._second_text = ""

    def format(self, record: logging.LogRecord) -> str:
        """The record's lines, each with its newline."""
        prefix = self._prefix(record) if self._has_prefix else ""
        message = message_of(record)
        if record.levelno == logging.DEBUG and self._process_label:
            message = f"{self._process_label}: {message}"
        lines = [message]
        if record.exc_info:
            lines += self.formatException(record.exc_info).splitlines()
        return "".join([f"{prefix}{line.translate(_ESCAPES)}\n" for line in lines])

    def _prefix(self, record: logging.LogRecord) -> str:
        tag = self._tags[_nearest(record.levelno)]
        if self._split_time is None:
            return f"[{record.process}] {tag}"
        second, microsecond = divmod(int(record.created * 1_000_000), 1_000_000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y/%m/%d %H:%M:%S", self._split_time(second))
        return f"[{record.process}] {self._second_text}.{microsecond:06d} {tag}"


class PlainFormatter(LineFormatter):
    """The same without pid, time and tag, which syslog has of its own."""

    _has_prefix = False

    def __init__(self, process_label: str = "") -> None:
        super().__init__(process_label=process_label)


class JsonFormatter(logging.Formatter):
    """Records to JSON objects, one a line, in ASCII. A traceback is a field of its record."""

    def __init__(
        self, *, logtime: bool = True, logtime_utc: bool = False, process_label: str = ""
    ) -> None:
        super().__init__()
        self._logtime = logtime
        self._logtime_utc = logtime_utc
        self._process_label = process_label

    def format(self, record: logging.LogRecord) -> str:
        """The record's line, with its newline."""
        message = message_of(record)
        fields: dict[str, object] = {}
        if self._logtime:
            fields["time"] = self._time(record.created)
        fields["level"] = _WORDS[_nearest(record.levelno)]
        fields["pid"] = record.process
        if self._process_label:
            fields["process"] = self._process_label
        connection = _CONNECTION.match(message)
        if connection is not None:
            fields["remote"] = _whole(connection[1])
            fields[connection[2]] = int(connection[3])
        fields["message"] = _whole(message)
        if record.exc_info:
            fields["traceback"] = _whole(self.formatException(record.exc_info))
        return json.dumps(fields, separators=(",", ":")) + "\n"

    def _time(self, created: float) -> str:
        moment = datetime.fromtimestamp(created, UTC)
        if self._logtime_utc:
            return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        return moment.astimezone().isoformat(timespec="microseconds")


def message_of(record: logging.LogRecord) -> str:
    """The text of a record, also if its arguments do not fit."""
    try:
        return record.getMessage()
    except Exception as error:  # arguments that do not fit the text
        return f"{record.msg!r} {record.args!r} ({error})"


def _whole(text: str) -> str:
    """Without halves of characters, which a strict reader of JSON refuses."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def _nearest(level: int) -> int:
    """The named level at or below a level of somebody else's."""
    if level in _TAGS:
        return level
    return max((named for named in _TAGS if named <= level), default=TRACE)
