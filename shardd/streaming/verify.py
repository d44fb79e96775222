"""`shardd stream verify`: reads a whole file store and says what in it is not as it was written.

Nothing is changed. Every record of every segment is read and its checksum compared; the databases
are checked by SQLite itself. A server must not be using the store meanwhile.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from shardd.errors import StoreError
from shardd.streaming.file_recovery import (
    DELETED_SUFFIX,
    Damage,
    judge_end,
    misplaced,
    missing,
    segment_names,
)
from shardd.streaming.file_store import (
    FOREIGN_FILE,
    LEAD_DATABASE,
    LEAD_LOCK,
    PART_DATABASE,
    PART_LOCK,
    part_name,
)
from shardd.streaming.segment import DamagedHeader, Segment
from shardd.streaming.state_db import LeadDatabase, PartDatabase
from shardd.streaming.subjects import PARTITIONS, partition_of, shown

_SEQUENCES_SHOWN: Final = 8


@dataclass(slots=True)
class Report:
    """What a store holds, and what is wrong with it."""

    channels: int = 0
    segments: int = 0
    messages: int = 0
    bytes: int = 0  # of encoded messages
    subscriptions: int = 0
    clients: int = 0
    damages: list[str] = field(default_factory=list)
    # What the server mends by itself when it starts, without loss of anything acknowledged.
    notes: list[str] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        """Whether nothing that was acknowledged is damaged."""
        return not self.damages


def verify(directory: Path) -> Report:
    """Reads everything that a store holds.

    Raises:
        StoreError: this is no store, it is being used, or it cannot be read.
    """
    directory = directory.absolute()
    if (directory / FOREIGN_FILE).exists():
        raise StoreError(f"{directory}: a store of the original server")
    parts = [part for part in range(PARTITIONS) if (directory / part_name(part)).is_dir()]
    has_lead = (directory / LEAD_DATABASE).exists()
    if not parts and not has_lead:
        raise StoreError(f"{directory}: there is no store here")
    report = Report()
    try:
        with _locked(directory / LEAD_LOCK):
            if has_lead:
                _verify_lead(directory / LEAD_DATABASE, report)
        for part in parts:
            with _locked(directory / part_name(part) / PART_LOCK):
                _verify_part(directory / part_name(part), part, report)
    except OSError as error:
        raise StoreError(f"{error.filename or directory}: {error.strerror}") from None
    return report


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """No server may begin to use it meanwhile."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise StoreError(f"{path}: a server uses this store: end it first") from None
    finally:
        os.close(fd)


def _verify_lead(path: Path, report: Report) -> None:
    try:
        database = LeadDatabase(path, is_read_only=True)
        try:
            database.server()
            report.clients = len(database.clients())
        finally:
            database.close()
    except StoreError as error:
        report.damages.append(str(error))


def _verify_part(part: Path, number: int, report: Report) -> None:
    last: dict[bytes, int] = {}
    for entry in sorted(os.scandir(part), key=lambda entry: entry.name):
        if entry.is_dir() and not entry.name.endswith(DELETED_SUFFIX):
            _verify_channel(entry.path, number, report, last)
    if not (part / PART_DATABASE).exists():
        if last:
            report.damages.append(f"{part / PART_DATABASE}: missing: no subscription is left")
        return
    try:
        database = PartDatabase(part / PART_DATABASE, is_read_only=True)
        try:
            rows = database.subscriptions()
        finally:
            database.close()
    except StoreError as error:
        report.damages.append(str(error))
        return
    for channel, subscriptions in rows.items():
        report.subscriptions += len(subscriptions)
        for row in subscriptions:
            if channel in last and row.last_sent > last[channel]:
                report.notes.append(
                    f"channel {shown(channel)}: subscription {row.id} is at {row.last_sent}, the"
                    f" log ends with {last[channel]}"
                )


def _verify_channel(directory: str, part: int, report: Report, last: dict[bytes, int]) -> None:
    names = segment_names(os.listdir(directory))
    segments: list[Segment] = []
    for name in names:
        path = f"{directory}/{name}"
        is_last = name == names[-1]
        report.segments += 1
        try:
            segment = Segment.open(path)
        except DamagedHeader as error:
            is_note = error.is_torn and is_last
            (report.notes if is_note else report.damages).append(str(error))
            continue
        except StoreError as error:
            report.damages.append(str(error))
            continue
        damage = misplaced(segment, name, segments)
        if damage is None and partition_of(segment.channel) != part:
            text = f"channel {shown(segment.channel)} belongs to another part"
            damage = Damage(path, 0, text, "Move its directory there")
        if damage is not None:
            report.damages.append(str(damage))
        try:
            _verify_records(segment, report, is_last=is_last)
        except StoreError as error:
            report.damages.append(str(error))
        finally:
            segment.close()
            segment.forget_offsets()
        if segments:
            damage = missing(segments[-1], segment)
            if damage is not None:
                report.damages.append(str(damage))
        segments.append(segment)
    if segments:
        newest = segments[-1]
        report.channels += 1
        last[newest.channel] = newest.first + newest.count - 1


def _verify_records(segment: Segment, report: Report, *, is_last: bool) -> None:
    """Record by record where the sidecar tells where each begins; else to the first bad one."""
    if segment.load_sidecar():
        damaged = segment.damaged()
        for sequence, offset in damaged[:_SEQUENCES_SHOWN]:
            report.damages.append(f"{segment.path}: at byte {offset}: message {sequence} is lost")
        if len(damaged) > _SEQUENCES_SHOWN:
            more = damaged[_SEQUENCES_SHOWN:]
            report.damages.append(
                f"{segment.path}: and {len(more)} more messages up to {more[-1][0]} are lost"
            )
        report.messages -= len(damaged)
    if os.stat(segment.path).st_size != segment.end:
        damage = judge_end(segment, segment.scan())
        if is_last and damage is not None:
            (report.notes if damage.is_torn else report.damages).append(str(damage))
    report.messages += segment.count
    report.bytes += segment.payload_bytes
