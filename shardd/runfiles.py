"""Files of a running server: its runtime directory, pid file and ports file.

The runtime directory holds the ZeroMQ ipc sockets of the host's processes. Only the server's user
can enter it. Its supervisor holds a lock on it for as long as it lives, so that a later start can
tell a directory that a killed server left behind from one that is in use.
"""

import contextlib
import fcntl
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from shardd.errors import BootError
from shardd.sockets import error_text

_PREFIX: Final = "shardd-"
_NAME: Final = re.compile(r"shardd-([0-9]{1,10})-[0-9a-f]{8}")
# A unix socket's path has 108 bytes with its final zero; this many are kept for a name.
_IPC_PATH_BYTES_MAX: Final = 107
_IPC_NAME_BYTES_MAX: Final = 40


class RuntimeDirectory:
    """A private directory of this supervisor; owned by it alone, removed by `close`."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self._lock_fd = lock_fd

    @classmethod
    def create(cls) -> "RuntimeDirectory":
        """Makes one in the first place that will have it, and clears dead servers' ones there."""
        refusals = []
        for parent in _parents():
            path = parent / f"{_PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
            if len(os.fsencode(path)) + 1 + _IPC_NAME_BYTES_MAX > _IPC_PATH_BYTES_MAX:
                refusals.append(f"{parent}: path too long for a socket")
                continue
            try:
                path.mkdir(mode=0o700)
                lock_fd = _try_lock(path)
            except OSError as error:
                refusals.append(f"{parent}: {error_text(error)}")
                continue
            if lock_fd is None:
                refusals.append(f"{path}: locked by somebody else")
                continue
            _clear_stale(parent)
            return cls(path, lock_fd)
        raise BootError(f"Could not create a runtime directory: {'; '.join(refusals)}")

    def close(self) -> None:
        """Removes the directory and what is in it."""
        _remove(self.path)
        self.leave_in_child()

    def leave_in_child(self) -> None:
        """In a forked child: the lock stays the supervisor's."""
        os.close(self._lock_fd)


def directory_of(pid: int) -> Path | None:
    """A way into the runtime directory of the server with this pid; None when it has none.

    It is the directory on which that process holds the lock, so that neither the environment nor
    the file system in which the server was started needs to be the caller's.
    Raises OSError: there is no such process, or it is somebody else's.
    """
    descriptors = Path(f"/proc/{pid}/fd")
    for descriptor in descriptors.iterdir():
        with contextlib.suppress(FileNotFoundError):  # it has just been closed
            if _NAME.fullmatch(os.path.basename(os.readlink(descriptor))):
                return descriptor
    return None


def write_pid_file(path: str) -> None:
    """Writes this process's pid: digits, no newline, for the user alone, as nats-server does."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w") as file:
            file.write(str(os.getpid()))
    except OSError as error:
        raise BootError(f"Could not write pidfile: open {path}: {error_text(error)}") from error


class PortsFile:
    """`shardd_<pid>.ports` in a directory: the client URLs, for whoever started the server."""

    def __init__(self, directory: str) -> None:
        self._path = Path(directory) / f"shardd_{os.getpid()}.ports"

    def check(self) -> None:
        """Raises BootError, long before there is anything to write, if it could not be written."""
        if not self._path.parent.is_dir():
            raise self._error("no such directory")
        if not os.access(self._path.parent, os.W_OK | os.X_OK):
            raise self._error("permission denied")

    def write(self, urls: Mapping[str, list[str]]) -> None:
        """Writes it whole: a reader finds all of it or nothing. `urls` by kind of listener."""
        draft = self._path.with_suffix(".tmp")
        try:
            draft.write_text(json.dumps(urls, separators=(",", ":")))
            draft.replace(self._path)
        except OSError as error:
            raise self._error(error_text(error)) from error

    def remove(self) -> None:
        """Removes it if it is still there."""
        with contextlib.suppress(OSError):
            self._path.unlink()

    def _error(self, text: str) -> BootError:
        return BootError(f"Error writing ports file ({self._path}): {text}")


def _parents() -> Iterator[Path]:
    """Where a runtime directory may stand, best first; all of them are cleared at reboot."""
    for place in (os.environ.get("XDG_RUNTIME_DIR"), "/run", os.environ.get("TMPDIR"), "/tmp"):
        if place and os.path.isabs(place):
            yield Path(place)


def _clear_stale(parent: Path) -> None:
    """Removes this user's runtime directories whose supervisor is gone."""
    with contextlib.suppress(OSError), os.scandir(parent) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and _is_own_directory(entry):
                _clear_if_stale(Path(entry.path))


def _is_own_directory(entry: "os.DirEntry[str]") -> bool:
    try:
        info = entry.stat(follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid()


def _clear_if_stale(path: Path) -> None:
    """The lock decides, not the pid alone: the pid may be one of another pid namespace."""
    name = _NAME.fullmatch(path.name)
    if name is None or _is_alive(int(name[1])):
        return
    lock_fd = None
    with contextlib.suppress(OSError):
        lock_fd = _try_lock(path)
    if lock_fd is None:
        return
    _remove(path)
    os.close(lock_fd)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _try_lock(path: Path) -> int | None:
    """Locks a directory; None when somebody holds it. The lock dies with the descriptor."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def _remove(path: Path) -> None:
    """Removes a flat directory of sockets; what cannot go stays, for it hurts nobody."""
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
    with contextlib.suppress(OSError):
        path.rmdir()
