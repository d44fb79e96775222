"""The log of a process: where its lines go, on the standard `logging` module.

One handler on the root logger writes for all of a process, so a library's warning looks like our
own. Every record is one `write` (`logfile`), in nats-server's form or as JSON (`logformat`). A line
that is the same as the one before, within a second, is counted instead; those of debug and trace
never are. A log that cannot be written never stops the server.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Protocol

from shardd.errors import BootError
from shardd.logfile import LogFile
from shardd.logformat import (
    TAGS,
    TRACE,
    JsonFormatter,
    LineFormatter,
    PlainFormatter,
    message_of,
)
from shardd.syslog import Syslog

REPEAT_S: Final = 1.0  # how long the same line is counted; then it is printed again
FOLLOW_S: Final = 1.0  # how often a process that says nothing looks whether the file was rotated

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
    @property
    def syslog(self) -> bool: ...
    @property
    def remote_syslog(self) -> str: ...
    @property
    def log_size_limit(self) -> int: ...
    @property
    def log_max_num(self) -> int: ...
    @property
    def log_format(self) -> str: ...


class LineHandler(logging.Handler):
    """Writes records to a file, to syslog or to standard error. Owned by one process.

    Args:
        settings: where to, and in which form.
        process_label: which process of the server this is.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        settings: LogSettings,
        process_label: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises BootError when the file cannot be opened, or there is no syslog."""
        super().__init__()
        self._clock = clock
        self._syslog: Syslog | None = None
        self._pid = os.getpid()
        self._file: LogFile | None = None
        if settings.log_file is not None:
            self._file = LogFile(
                settings.log_file, settings.log_size_limit, settings.log_max_num, self._say
            )
        elif settings.remote_syslog or settings.syslog:  # which goes first: as in nats-server
            self._syslog = Syslog(settings.remote_syslog)
        self._followed = 0.0
        # The line that was printed last: its level and text, when, and how often it came again.
        self._last: tuple[int, str] | None = None
        self._printed = 0.0
        self._repeats = 0
        self.setFormatter(self._make_formatter(settings, process_label))

    def _make_formatter(self, settings: LogSettings, label: str) -> logging.Formatter:
        if settings.log_format == "json":
            return JsonFormatter(
                logtime=settings.logtime, logtime_utc=settings.logtime_utc, process_label=label
            )
        if self._syslog is not None:
            return PlainFormatter(label)
        return LineFormatter(
            logtime=settings.logtime,
            logtime_utc=settings.logtime_utc,
            colours=settings.log_file is None and os.isatty(_STDERR),
            process_label=label,
        )

    def emit(self, record: logging.LogRecord) -> None:
        """One write for one record; the rest only if the system took less than all."""
        try:
            if self._is_repeat(record):
                return
            self._write(record)
        except OSError:
            pass  # a full disk or a closed pipe: there is no better place to say so

    def tick(self) -> None:
        """Called now and then: a count that is due is printed, a rotated file is let go."""
        now = self._clock()
        if self._repeats and now - self._printed >= REPEAT_S:
            self.flush()
        if self._file is not None and now - self._followed >= FOLLOW_S:
            self._followed = now
            with self._guard():
                self._file.follow()

    def flush(self) -> None:
        """Prints how often the last line came again, and begins anew."""
        with self._guard():
            with suppress(OSError):  # as above
                self._tell_repeats()
            self._last = None

    def reopen(self) -> None:
        """Opens the path again, as after a rotation. Keeps the old file when that fails."""
        if self._file is not None:
            with self._guard():
                self._file.reopen()

    def close(self) -> None:
        """Closes the file; standard error is not ours to close."""
        self.flush()
        file, self._file = self._file, None
        if file is not None:
            file.close()
        if self._syslog is not None:
            self._syslog.close()
        super().close()

    @contextmanager
    def _guard(self) -> Iterator[None]:
        """A store's thread may log, too; `emit` is called with this lock held."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def _is_repeat(self, record: logging.LogRecord) -> bool:
        """Whether the record is counted instead of written."""
        if record.levelno <= logging.DEBUG or record.exc_info:
            line = None
        else:
            line = record.levelno, message_of(record)
        now = self._clock()
        if line is not None and line == self._last and now - self._printed < REPEAT_S:
            self._repeats += 1
            return True
        self._tell_repeats()
        self._last, self._printed = line, now
        return False

    def _tell_repeats(self) -> None:
        if self._last is None or not self._repeats:
            return
        level, text = self._last
        count, self._repeats = self._repeats, 0
        if os.getpid() != self._pid:
            return  # forked since: it is the parent's to tell
        self._write(_record(level, f"{text} (repeated {count} more times)"))

    def _write(self, record: logging.LogRecord) -> None:
        text = self.format(record)
        if self._syslog is not None:
            self._syslog.write(record.levelno, text)
            return
        line = text.encode("utf-8", "backslashreplace")
        if self._file is not None:
            self._file.write(line)
            return
        while line:
            line = line[os.write(_STDERR, line) :]

    def _say(self, text: str, is_fault: bool) -> None:
        """What the file says of itself stands in it."""
        if self._file is not None:
            record = _record(logging.ERROR if is_fault else logging.INFO, text)
            self._file.append(self.format(record).encode("utf-8", "backslashreplace"))


_log = logging.getLogger("shardd.log")
_handler: LineHandler | None = None


def configure(settings: LogSettings, process_label: str = "") -> None:
    """Sends this process's log where the configuration says; called again in each child.

    The label stands in front of DEBUG lines, and in JSON: all others look as nats-server writes
    them. Raises BootError when the log file cannot be opened; the log before stays in force then.
    """
    global _handler
    handler = LineHandler(settings, process_label)
    if settings.trace and not settings.debug:  # as in nats-server, -V alone is not -DV
        handler.addFilter(_is_not_debug)
    for level, tag in TAGS.items():
        logging.addLevelName(level, tag)
    close()
    _handler = handler
    logging.getLogger().addHandler(handler)
    logging.getLogger("shardd").setLevel(_level(settings))


def tick() -> None:
    """Called several times a second by whoever runs the process: see `LineHandler.tick`."""
    if _handler is not None:
        _handler.tick()


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


def _record(level: int, text: str) -> logging.LogRecord:
    return logging.LogRecord("shardd.log", level, __file__, 0, text, None, None)


def _level(settings: LogSettings) -> int:
    if settings.trace:
        return TRACE
    return logging.DEBUG if settings.debug else logging.INFO


def _is_not_debug(record: logging.LogRecord) -> bool:
    return record.levelno != logging.DEBUG
