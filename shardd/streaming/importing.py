"""`shardd stream import`: a FILE store of the original server becomes a store of shardd.

Channels keep their sequences and timestamps, subscriptions their positions and what they have not
acknowledged, clients their connections: after the import, clients go on as after a restart. The
original's directory is only read. What it encrypted is decrypted, with its key, and the new store
keeps payloads encrypted with the same one. The new store is made beside its place and moved there
when it is whole, so there is never half of one.
"""

import contextlib
import fcntl
import os
import queue
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from shardd.config.streaming import KEY_VARIABLE, FileOptions
from shardd.errors import StoreError
from shardd.streaming.encrypted_store import (
    Aead,
    EncryptedStore,
    Keys,
    foreign_payload,
    is_foreign,
)
from shardd.streaming.file_log import FileLog
from shardd.streaming.file_recovery import clamp
from shardd.streaming.file_store import FileStore
from shardd.streaming.foreign import (
    Findings,
    ForeignMessage,
    channels_of,
    read_clients,
    read_messages,
    read_server,
    read_subscriptions,
)
from shardd.streaming.store import CommitResult, ServerRow, Store
from shardd.streaming.subjects import PARTITIONS, is_channel, partition_of, shown
from shardd.streaming.write_job import sync_directory

FOREIGN_LOCK: Final = ".rootdir.lck"
SUFFIX: Final = ".importing"

_COMMIT_BYTES: Final = 8 << 20
_COMMIT_MESSAGES: Final = 50_000


@dataclass(slots=True)
class ImportReport:
    """What was taken over."""

    cluster_id: str = ""
    channels: int = 0
    messages: int = 0
    subscriptions: int = 0
    clients: int = 0
    notes: list[str] = field(default_factory=list)  # what was left out or filled in


def import_store(
    source: Path,
    target: Path,
    *,
    is_cut_allowed: bool = False,
    key: bytes = b"",
    cipher: str = "",
    is_plain: bool = False,
) -> ImportReport:
    """Copy a store of the original server.

    Args:
        source: its directory; no server may be using it.
        target: the new store's directory, which must not be there, or be empty.
        is_cut_allowed: leave out what stands behind the last whole record of a file.
        key: what the source is encrypted with, and the new store is to be; none: neither is.
        cipher: of the new store; "" for what is fast on this machine.
        is_plain: do not encrypt the new store.

    Raises:
        StoreError: one of the two cannot be used, or the source is damaged, or encrypted with
            another key.
    """
    source, target = source.absolute(), target.absolute()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(
            f"{target}: there is something already: name a directory that is not there"
        )
    findings = Findings(is_cut_allowed)
    report = ImportReport(notes=findings.notes)
    making = target.with_name(target.name + SUFFIX)
    calls: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
    keys = Keys(key, cipher, calls.put) if key else None
    try:
        with _locked(source / FOREIGN_LOCK):
            shutil.rmtree(making, ignore_errors=True)
            try:
                _Import(source, making, report, findings, calls, keys, is_plain).run()
                os.sync()
                if target.exists():
                    target.rmdir()
                making.rename(target)
                sync_directory(str(target.parent))
            except BaseException:
                shutil.rmtree(making, ignore_errors=True)
                raise
    except OSError as error:
        raise StoreError(f"{error.filename or target}: {error.strerror}") from None
    return report


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The original locks its directory in fault-tolerant mode, with a lock of its own kind."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except (BlockingIOError, PermissionError):
        raise StoreError(f"{path}: a server uses this store: end it first") from None
    finally:
        os.close(fd)


class _Import:
    """One import, with an event loop that does nothing else."""

    def __init__(
        self,
        source: Path,
        making: Path,
        report: ImportReport,
        findings: Findings,
        calls: "queue.SimpleQueue[Callable[[], object]]",
        keys: Keys | None,
        is_plain: bool,
    ) -> None:
        self._source = source
        self._report = report
        self._findings = findings
        self._calls = calls
        self._keys = keys
        # Nothing is at stake before the whole store is moved to its place.
        store = FileStore(
            making,
            range(PARTITIONS),
            FileOptions(sync=False),
            is_lead=True,
            call_soon=self._calls.put,
        )
        self._store: Store = EncryptedStore(store, keys) if keys and not is_plain else store
        self._last_ids = dict.fromkeys(range(PARTITIONS), 0)

    def run(self) -> None:
        """All of it; the store is closed, and on disk, at the end."""
        report = self._report
        foreign = read_server(self._source, self._findings)
        clients = read_clients(self._source, self._findings)
        self._store.recover()
        try:
            report.cluster_id = foreign.cluster_id
            self._store.save_server(
                ServerRow(
                    cluster_id=foreign.cluster_id,
                    discover=foreign.discover,
                    pub=foreign.publish,
                    sub=foreign.subscribe,
                    unsub=foreign.unsubscribe,
                    sub_close=foreign.sub_close,
                    close=foreign.close,
                    inbox_prefix=b"_INBOX." + secrets.token_hex(11).encode(),
                )
            )
            for client in clients:
                self._store.save_client(client)
            report.clients = len(clients)
            for directory in channels_of(self._source):
                self._copy_channel(directory)
            self._commit()
        finally:
            self._store.close()

    def _copy_channel(self, directory: Path) -> None:
        name = os.fsencode(directory.name)
        if not is_channel(name):
            self._report.notes.append(f"{directory}: no channel can have this name: left out")
            return
        log = self._store.create_channel(name)
        assert isinstance(log, FileLog)
        self._copy_messages(directory, log)
        self._commit()
        self._report.channels += 1
        part = partition_of(name)
        for row in read_subscriptions(directory, self._findings):
            # Numbers are given by part, the original's are given by channel.
            self._last_ids[part] += 1
            own = replace(row, id=self._last_ids[part])
            own = clamp(name, log.last, own, self._report.notes)
            self._store.save_subscription(name, own)
            self._report.subscriptions += 1

    def _copy_messages(self, directory: Path, log: FileLog) -> None:
        waiting_bytes = waiting = filled = 0
        is_first = True
        ciphers = self._keys.ciphers(log.name) if self._keys is not None else {}
        for message in read_messages(directory, self._findings):
            if is_first:
                log.begin_at(message.sequence)
                is_first = False
            if message.sequence <= log.appended:
                raise StoreError(
                    f"{directory}: message {message.sequence} follows message {log.appended}:"
                    " restore the directory from a copy"
                )
            while log.appended + 1 < message.sequence:
                # As the original does itself.
                filled += 1
                log.append_message(message.timestamp_ns, b"", b"")
            data = self._payload(directory, message, ciphers)
            log.append_message(message.timestamp_ns, message.reply, data)
            waiting += 1
            waiting_bytes += len(message.data)
            if waiting_bytes >= _COMMIT_BYTES or waiting >= _COMMIT_MESSAGES:
                self._report.messages += waiting
                waiting_bytes = waiting = 0
                self._commit()
        self._report.messages += waiting
        if filled:
            self._report.notes.append(
                f"channel {shown(log.name)}: {filled} messages lacked, and are empty now"
            )

    def _payload(
        self, directory: Path, message: ForeignMessage, ciphers: Mapping[int, Aead]
    ) -> bytes:
        """A message's payload as it was published."""
        data = foreign_payload(ciphers, message.data)
        if data is None and is_foreign(message.sequence, message.data):
            if ciphers:
                raise StoreError(
                    f"{directory}: message {message.sequence} was encrypted with another key than"
                    f" the one in {KEY_VARIABLE} or --encryption_key"
                )
            raise StoreError(
                f"{directory}: message {message.sequence} is encrypted: give the key of the"
                f" original server in {KEY_VARIABLE}"
            )
        return message.data if data is None else data

    def _commit(self) -> None:
        results: list[CommitResult] = []
        self._store.commit(results.append)
        while not results:
            self._calls.get()()
        for text in (*results[0].failed_channels.values(), results[0].state_error):
            if text:
                raise StoreError(f"the new store: {text}")
