"""The log file: any number of processes append to it, and rotate it by its size.

Every line is one write to a file that is opened for appending, so lines stay whole. Whichever
process sees the file over its limit rotates it, under a lock on the file that nobody waits for:
it renames the file and makes a new one. The others notice before their next line that the path
leads elsewhere, and follow. What is written meanwhile lands in the backup; what lands in a backup
that is already deleted is written again. So no line is lost, whoever is killed or stopped when.

Names and counts of backups are nats-server's (sheet 13.6; seen with the real one).
"""

import contextlib
import fcntl
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from shardd.errors import BootError

FILE_MODE: Final = 0o640
# After a rotation failed: how long nobody tries again (a second line would say the same).
RETRY_S: Final = 10.0

_STAMP: Final = re.compile(r"\d{4}(\.\d\d){5}(\.\d{1,9})?", re.ASCII)

Say = Callable[[str, bool], None]  # a line about the file; whether it is a fault


class LogFile:
    """One process's hold on the file.

    Args:
        path: where it is.
        size_limit: bytes from which on it is rotated; 0: never.
        files_max: files to keep, the current one included; 0: all.
        say: called with what there is to say of a rotation; it may call `append`.
    """

    def __init__(
        self,
        path: str,
        size_limit: int = 0,
        files_max: int = 0,
        say: Say = lambda text, is_fault: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises BootError when it cannot be opened."""
        self.path = path
        self._say = say
        self._clock = clock
        self._files_max = files_max
        self._not_before = float("-inf")
        self._descriptor = _open(path)
        # A device or a pipe has no size, and a name that stands for a descriptor cannot be moved.
        is_file = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        is_movable = is_file and not path.startswith(("/dev/", "/proc/"))
        self._size_limit = max(size_limit, 0) if is_movable else 0
        self._real_path = os.path.realpath(path)

    def write(self, line: bytes) -> None:
        """Appends, and rotates the file if it is too large then. Raises OSError."""
        if not self._size_limit:
            self.append(line)
            return
        self.follow()
        self.append(line)
        status = os.fstat(self._descriptor)
        if not status.st_nlink:
            # Rotated and deleted just now. A second time it would be the operator's doing.
            self._open_again()
            self.append(line)
        elif status.st_size > self._size_limit and self._clock() >= self._not_before:
            self._rotate(status)

    def append(self, line: bytes) -> None:
        """Appends and does nothing else. Raises OSError."""
        while line:
            line = line[os.write(self._descriptor, line) :]

    def follow(self) -> None:
        """Goes on with the new file if another process has rotated this one. A path that leads
        nowhere is left alone: somebody has moved the file, and will say so by a signal."""
        if not self._size_limit:
            return
        with contextlib.suppress(OSError):
            if not os.path.samestat(os.stat(self._real_path), os.fstat(self._descriptor)):
                self._open_again()

    def reopen(self) -> None:
        """Opens the path again. Raises BootError, and keeps the old file, when that fails."""
        self._take(_open(self.path))
        self._real_path = os.path.realpath(self.path)

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._descriptor)

    def _open_again(self) -> None:
        with contextlib.suppress(BootError):
            self._take(_open(self._real_path))

    def _take(self, descriptor: int) -> None:
        self._descriptor, old = descriptor, self._descriptor
        os.close(old)

    def _rotate(self, status: os.stat_result) -> None:
        """One process does it. A lock ends with its descriptor, so with its process too."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return  # another one is at it
        backup = ""
        try:
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.stat(self._real_path), status):
                    backup = f"{self._real_path}.{_stamp(time.time_ns())}"
                    os.rename(self._real_path, backup)
            self._take(_open(self._real_path))
        except (OSError, BootError) as error:
            self._not_before = self._clock() + RETRY_S
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self._say(f'Unable to rotate log file "{self.path}": {reason}', True)
            return
        if backup:
            self._say(f'Rotated log, backup saved as "{backup}"', False)
            self._purge()

    def _purge(self) -> None:
        """Deletes the oldest backups of those that are too many."""
        if self._files_max <= 0:
            return
        path = Path(self._real_path)
        backups: list[tuple[int, str]] = []
        try:
            with os.scandir(path.parent) as entries:
                for entry in entries:
                    name, dot, stamp = entry.name.partition(f"{path.name}.")
                    if dot and not name and _STAMP.fullmatch(stamp):
                        with contextlib.suppress(FileNotFoundError):
                            backups.append((entry.stat().st_mtime_ns, entry.name))
            for _, name in sorted(backups)[: max(len(backups) - self._files_max + 1, 0)]:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(path.parent / name)
                    self._say(f'Purged log file "{name}"', False)
        except OSError as error:
            self._say(f'Unable to purge log files in "{path.parent}": {error.strerror}', True)


def _stamp(now_ns: int) -> str:
    """What stands behind the name of a backup: local time, to the nanosecond."""
    second, nanosecond = divmod(now_ns, 1_000_000_000)
    return f"{time.strftime('%Y.%m.%d.%H.%M.%S', time.localtime(second))}.{nanosecond:09d}"


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    try:
        return os.open(path, flags, FILE_MODE)
    except OSError as error:
        raise BootError(f"error opening log file {path}: {error.strerror}") from None
