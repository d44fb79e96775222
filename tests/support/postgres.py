"""A PostgreSQL cluster of the tests' own, in a temporary directory.

It is made by the programs that a distribution installs, as a user without rights, because they
refuse root. Where they are not installed, tests that need them are skipped.
"""

import atexit
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from tests.support.broker import KEPT_PIDS, free_port
from tests.support.waiting import wait_until

PASSWORD: Final = "not-to-be-told"
USER: Final = "shardd"

_INSTALLED: Final = Path("/usr/lib/postgresql")
_MAKE_S: Final = 120
_QUICK: Final = ("fsync=off", "max_wal_size=256MB", "shared_buffers=32MB", "max_connections=60")

_numbers = itertools.count()


class Cluster:
    """One server with its data; started and stopped as often as a test likes."""

    def __init__(self, programs: Path, settings: tuple[str, ...] = _QUICK) -> None:
        self._programs = programs
        self._settings = settings
        self._home = Path(tempfile.mkdtemp(prefix="shardd-pg-"))
        self._data = self._home / "data"
        self._user = _unprivileged()
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        password = self._home / "password"
        password.write_text(PASSWORD)
        if self._user is not None:
            for path in (self._home, password):
                os.chown(path, self._user, -1)
        command: list[str | Path] = [
            programs / "initdb",
            "-D",
            self._data,
            "-U",
            USER,
            "-E",
            "UTF8",
            "--locale=C",
        ]
        command += ["--auth=scram-sha-256", f"--pwfile={password}", "--no-sync"]
        subprocess.run(
            command,
            check=True,
            timeout=_MAKE_S,
            stdout=subprocess.DEVNULL,
            cwd=self._home,
            **self._rights(),
        )

    def _rights(self) -> dict[str, Any]:
        # Not the sanitizers' library: `postgres` hangs in it, and it is not what is tested.
        env = {key: value for key, value in os.environ.items() if key != "LD_PRELOAD"}
        user = {} if self._user is None else {"user": self._user, "extra_groups": []}
        return {"env": env, **user}

    def start(self) -> None:
        """Returns when it takes connections."""
        settings = [f"port={self.port}", "listen_addresses=127.0.0.1"]
        settings += [f"unix_socket_directories={self._home}", *self._settings]
        command: list[str | Path] = [self._programs / "postgres", "-D", self._data]
        for setting in settings:
            command += ["-c", setting]
        with (self._home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self._home, **self._rights()
            )
        KEPT_PIDS.add(self._process.pid)
        wait_until(self._is_ready, "PostgreSQL takes connections")

    def _is_ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._home / "log").read_text()
        try:
            psycopg.connect(self.source()).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends it with every connection, SIGQUIT leaves the tidying to the next start."""
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait()
            KEPT_PIDS.discard(self._process.pid)
            self._process = None

    def remove(self) -> None:
        """Stops it and removes all of it."""
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self._home, ignore_errors=True)

    def source(self, schema: str = "", port: int = 0) -> str:
        """A connection string; with a schema, for the tables in it."""
        text = f"postgres://{USER}:{PASSWORD}@127.0.0.1:{port or self.port}/postgres"
        return f"{text}?options=-csearch_path%3D{schema}" if schema else text

    def schema(self) -> str:
        """A new schema."""
        name = f"test_{next(_numbers)}"
        self.execute(f"CREATE SCHEMA {name}")
        return name

    def execute(self, query: str) -> list[tuple[object, ...]]:
        """Runs one statement; its rows, if it has any."""
        with psycopg.connect(self.source(), autocommit=True) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []


def installed() -> Path | None:
    """Where the programs are."""
    found = sorted(_INSTALLED.glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


def _unprivileged() -> int | None:
    """Whom to run as: root may not."""
    if os.getuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    pytest.skip("PostgreSQL does not run as root, and there is no other user")


def make_cluster(settings: tuple[str, ...] = _QUICK) -> Cluster:
    """A cluster of the caller's own, started; the caller removes it."""
    programs = installed()
    if programs is None:
        pytest.skip(f"PostgreSQL is not installed: no initdb in {_INSTALLED}/*/bin")
    cluster = Cluster(programs, settings)
    try:
        cluster.start()
    except BaseException:
        cluster.remove()
        raise
    return cluster


@cache
def shared_cluster() -> Cluster:
    """One for all tests that leave it running; what it holds need not survive a crash."""
    cluster = make_cluster()
    atexit.register(cluster.remove)
    return cluster
