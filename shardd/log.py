"""The log: nats-server's line format on the standard `logging` module.

    [pid] 2026/11/23 02:05:56.758015 [INF] text

One handler on the root logger writes for all of a process, so a library's warning looks like our
own. Every record is one `write`, and the file is opened for appending, so any number of processes
share it and lines stay whole. Text that came from a peer cannot start a line of its own: control
characters are written as escapes. A log that cannot be written never stops the server.
"""

import logging
import os
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final, Protocol

from shardd.errors import BootError

TRACE: Final = 5  # below DEBUG: the protocol itself
FILE_MODE: Final = 0o640
REPEAT_INTERVAL_S: Final = 60.0  # how often one repeated line is printed (precedent: nats-server)
REPEAT_KEYS_MAX: Final = 256  # different lines held back at a time

_TAGS: Final = {
    TRACE: ("TRC", "\x1b[33m"),
    logging.DEBUG: ("DBG", "\x1b[36m"),
    logging.INFO: ("INF", "\x1b[32m"),
    logging.WARNING: ("WRN", "\x1b[0;93m"),
    logging.ERROR: ("ERR", "\x1b[31m"),
    logging.CRITICAL: ("FTL", "\x1b[31m"),
}
_COLOUR_OFF: Final = "\x1b[0m"
_ESCAPES: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))} | {
    ord("\t"): "\t",
    ord("\n"): "\\n",
    ord("\r"): "\\r",
    0x2028: "\\u2028",
    0x2029: "\\u2029",
}
_STDERR: Final = 2


class LogSettings(Protocol):
    """What this module reads of the configuration."""

    @property
    def debug(self) -> bool: ...
    @property
    def trace(self) -> bool: ...
    @property
    def logtime(self) -> bool: ...
    @property
    def logtime_utc(self) -> bool: ...
    @property
    def log_file(self) -> str | None: ...


class LineFormatter(logging.Formatter):
    """Records to lines. A traceback becomes lines of the same form."""

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
        prefix = self._prefix(record)
        try:
            message = record.getMessage()
        except Exception as error:  # arguments that do not fit the text
            message = f"{record.msg!r} {record.args!r} ({error})"
        if record.levelno == logging.DEBUG and self._process_label:
            message = f"{self._process_label}: {message}"
        lines = [message]
        if record.exc_info:
            lines += self.formatException(record.exc_info).splitlines()
        return "".join([f"{prefix}{line.translate(_ESCAPES)}\n" for line in lines])

    def _prefix(self, record: logging.LogRecord) -> str:
        tag = self._tags.get(record.levelno) or self._tags[_nearest(record.levelno)]
        if self._split_time is None:
            return f"[{record.process}] {tag}"
        second, microsecond = divmod(int(record.created * 1_000_000), 1_000_000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y/%m/%d %H:%M:%S", self._split_time(second))
        return f"[{record.process}] {self._second_text}.{microsecond:06d} {tag}"


class LineHandler(logging.Handler):
    """Writes records to standard error or to a file that it opened. Owned by one process."""

    def __init__(self, path: str | None) -> None:
        super().__init__()
        self._path = path
        self._descriptor = _STDERR if path is None else _open(path)

    @property
    def path(self) -> str | None:
        return self._path

    def emit(self, record: logging.LogRecord) -> None:
        """One write for one record; the rest only if the system took less than all."""
        try:
            rest = self.format(record).encode("utf-8", "backslashreplace")
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError:
            pass  # a full disk or a closed pipe: there is no better place to say so

    def reopen(self) -> None:
        """Opens the path again, as after a rotation. Keeps the old file when that fails."""
        if self._path is not None:
            descriptor = _open(self._path)
            self._descriptor, old = descriptor, self._descriptor
            os.close(old)

    def close(self) -> None:
        """Closes the file; standard error is not ours to close."""
        if self._path is not None and self._descriptor != _STDERR:
            os.close(self._descriptor)
            self._descriptor = _STDERR
        super().close()


_log = logging.getLogger("shardd.log")
_handler: LineHandler | None = None


def configure(settings: LogSettings, process_label: str = "") -> None:
    """Sends this process's log where the configuration says; called again in each child.

    The label stands in front of DEBUG lines only: all others look as nats-server writes them.
    Raises BootError when the log file cannot be opened; the log before stays in force then.
    """
    global _handler
    handler = LineHandler(settings.log_file)
    handler.setFormatter(
        LineFormatter(
            logtime=settings.logtime,
            logtime_utc=settings.logtime_utc,
            colours=settings.log_file is None and os.isatty(_STDERR),
            process_label=process_label,
        )
    )
    if settings.trace and not settings.debug:  # as in nats-server, -V alone is not -DV
        handler.addFilter(_is_not_debug)
    for level, (tag, _) in _TAGS.items():
        logging.addLevelName(level, tag)
    close()
    _handler = handler
    logging.getLogger().addHandler(handler)
    logging.getLogger("shardd").setLevel(_level(settings))


def reopen() -> None:
    """Opens the log file again, as SIGUSR1 asks for; when that fails, the old file says why."""
    if _handler is not None:
        try:
            _handler.reopen()
        except BootError as error:
            _log.error("Could not reopen the log: %s", error)


def close() -> None:
    """Takes this module's handler off the root logger and closes its file."""
    global _handler
    if _handler is not None:
        logging.getLogger().removeHandler(_handler)
        _handler.close()
        _handler = None


@dataclass(frozen=True, slots=True)
class RepeatStatistics:
    """What a `RepeatLimiter` holds back."""

    keys: int
    suppressed: int


class RepeatLimiter:
    """Logs a repeated line once per interval and says how often it was left out in between.

    Owned by one task of one process. The owner calls `flush` now and then (a worker's tick), so
    that the last count of a burst is reported too.
    """

    def __init__(
        self,
        logger: logging.Logger,
        interval_s: float = REPEAT_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._logger = logger
        self._interval_s = interval_s
        self._clock = clock
        self._repeats: dict[Hashable, _Repeat] = {}  # in the order of their last report

    def log(self, level: int, key: Hashable, message: str, *args: object) -> None:
        """Logs now if `key` was not logged within the interval, else counts."""
        if not self._logger.isEnabledFor(level):
            return
        now = self._clock()
        repeat = self._repeats.get(key)
        if repeat is None or now - repeat.reported >= self._interval_s:
            self._report_suppressed(key)
            if len(self._repeats) >= REPEAT_KEYS_MAX:
                self._report_suppressed(next(iter(self._repeats)))
            self._logger.log(level, message, *args)
            self._repeats[key] = _Repeat(now, level, message, args)
        else:
            repeat.suppressed += 1
            repeat.args = args

    def flush(self) -> None:
        """Reports the counts of every line whose interval is over."""
        oldest = self._clock() - self._interval_s
        for key in [key for key, repeat in self._repeats.items() if repeat.reported <= oldest]:
            self._report_suppressed(key)

    def statistics(self) -> RepeatStatistics:
        """How many lines are held back, and how often."""
        return RepeatStatistics(
            len(self._repeats), sum(repeat.suppressed for repeat in self._repeats.values())
        )

    def _report_suppressed(self, key: Hashable) -> None:
        repeat = self._repeats.pop(key, None)
        if repeat is not None and repeat.suppressed:
            text = f"{repeat.message} (%d more like this in %.0f s, last one shown)"
            elapsed_s = self._clock() - repeat.reported
            self._logger.log(repeat.level, text, *repeat.args, repeat.suppressed, elapsed_s)


@dataclass(slots=True)
class _Repeat:
    reported: float
    level: int
    message: str
    args: tuple[object, ...]
    suppressed: int = 0


def _level(settings: LogSettings) -> int:
    if settings.trace:
        return TRACE
    return logging.DEBUG if settings.debug else logging.INFO


def _is_not_debug(record: logging.LogRecord) -> bool:
    return record.levelno != logging.DEBUG


def _nearest(level: int) -> int:
    """The named level at or below a level of somebody else's."""
    return max((named for named in _TAGS if named <= level), default=TRACE)


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(path, flags, FILE_MODE)
    except OSError as error:
        raise BootError(f"error opening log file {path}: {error.strerror}") from None
