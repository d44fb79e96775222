"""What a file store finds on disk: the segments of each channel, checked, mended or refused.

The end of a channel's last segment may be torn: the rest of a write that nobody was told of. It is
cut off. Anything else that is not as it was written is damage to messages that had been
acknowledged: the store refuses to start, and says which messages are lost and what can be done.
"""

import hashlib
import itertools
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final
from urllib.parse import quote_from_bytes

from shardd.errors import StoreError
from shardd.streaming.segment import SIDECAR_SUFFIX, SUFFIX, DamagedHeader, Segment
from shardd.streaming.store import SubscriptionRow
from shardd.streaming.subjects import shown
from shardd.streaming.write_job import sync_directory

DELETED_SUFFIX: Final = ".deleted"
_NAME_BYTES_MAX: Final = 180  # of a channel in a directory's name; file systems take 255
_DIGITS: Final = 20


@dataclass(frozen=True, slots=True)
class Damage:
    """One place that is not as it was written."""

    path: str
    offset: int
    text: str  # what is wrong, and which messages are lost
    advice: str  # what can be done
    is_torn: bool = False  # the rest of a write: nothing that was acknowledged is lost

    def __str__(self) -> str:
        return f"{self.path}: at byte {self.offset}: {self.text}. {self.advice}"


@dataclass(frozen=True, slots=True)
class FoundChannel:
    """One channel's directory."""

    name: bytes
    directory: str
    segments: tuple[Segment, ...]


def directory_name(channel: bytes) -> str:
    """What a channel's directory is called: readable, and never anything else's name."""
    name = quote_from_bytes(channel, safe="").replace("~", "%7E").replace(".", "%2E")
    name = name.replace("%2E", ".") if not channel.startswith(b".") else name
    if len(name) <= _NAME_BYTES_MAX and not name.endswith(DELETED_SUFFIX):
        return name
    return f"{name[:100]}~{hashlib.sha256(channel).hexdigest()[:32]}"


def segment_names(files: Sequence[str]) -> list[str]:
    """Those of a directory's files that are segments, the oldest first."""
    names = [name for name in files if name.endswith(SUFFIX)]
    return sorted(name for name in names if _is_number(name.removesuffix(SUFFIX)))


def recover_part(part: Path, repairs: list[str], *, repair: bool) -> list[FoundChannel]:
    """All channels of a part; what was mended is added to `repairs`.

    Raises:
        StoreError: something is damaged, or torn and not to be mended.
    """
    found: dict[bytes, FoundChannel] = {}
    for entry in sorted(os.scandir(part), key=lambda entry: entry.name):
        if not entry.is_dir():
            continue
        if entry.name.endswith(DELETED_SUFFIX):
            shutil.rmtree(entry.path, ignore_errors=True)
            continue
        channel = recover_channel(entry.path, repairs, repair=repair)
        if channel is None:
            continue
        if channel.name in found:
            raise StoreError(
                f"{entry.path} and {found[channel.name].directory} hold the same channel:"
                " move one of them elsewhere"
            )
        found[channel.name] = channel
    return list(found.values())


def recover_channel(directory: str, repairs: list[str], *, repair: bool) -> FoundChannel | None:
    """One channel, ready to be appended to; None: the directory holds nothing."""
    files = os.listdir(directory)
    names = segment_names(files)
    _remove_strays(directory, files, names)
    segments: list[Segment] = []
    for name in names:
        path = f"{directory}/{name}"
        is_last = name == names[-1]
        try:
            segment = Segment.open(path)
        except DamagedHeader as error:
            _mend_header(path, error, repairs, is_last=is_last, repair=repair)
            continue
        damage = misplaced(segment, name, segments) or read_segment(segment, is_last=is_last)
        if damage is not None:
            if not (damage.is_torn and repair):
                raise StoreError(str(damage))
            lost = segment.truncate()
            repairs.append(f"{path}: cut {lost} bytes behind byte {segment.end}: {damage.text}")
        if is_last and segment.end > segment.durable:
            # It may be in the page cache only, and is about to be shown to subscribers.
            segment.sync()
        segment.close()
        segments.append(segment)
    for older, newer in itertools.pairwise(segments):
        _check_joint(older, newer)
    if not segments:
        if not os.listdir(directory):
            os.rmdir(directory)
        return None
    return FoundChannel(segments[0].channel, directory, tuple(segments))


def read_segment(segment: Segment, *, is_last: bool) -> Damage | None:
    """Learn what records a segment has: from its sidecar, and by reading what that does not cover.

    What stands behind the records of a segment that takes no more is left alone.
    """
    if segment.load_sidecar() and os.stat(segment.path).st_size == segment.end:
        return None
    end = segment.scan()
    if is_last:
        return judge_end(segment, end)
    _try_sidecar(segment)
    return None


def judge_end(segment: Segment, end: str) -> Damage | None:
    """What a scan of the newest segment says of its end."""
    next_sequence = segment.first + segment.count
    if segment.count < segment.known_count:
        sidecar = segment.path.removesuffix(SUFFIX) + SIDECAR_SUFFIX
        return Damage(
            segment.path,
            segment.end,
            f"cut or damaged: messages {next_sequence} to"
            f" {segment.first + segment.known_count - 1} are lost, which its sidecar knows",
            f"Restore the file from a copy; or, to go on without these messages, run: rm {sidecar}",
        )
    if end == "torn":
        return Damage(
            segment.path,
            segment.end,
            f"the last write was not finished: message {next_sequence} and what may follow it"
            " was not acknowledged",
            f"Set `repair: true` in `file {{ }}`, or run: truncate -s {segment.end} {segment.path}",
            is_torn=True,
        )
    if end == "damaged":
        return Damage(
            segment.path,
            segment.end,
            f"damaged: message {next_sequence} and messages behind it cannot be read",
            "Restore the file from a copy; or, to go on without these messages, run:"
            f" truncate -s {segment.end} {segment.path}",
        )
    return None


def _try_sidecar(segment: Segment) -> None:
    try:
        segment.write_sidecar()
    except OSError:
        return


def missing(older: Segment, newer: Segment) -> Damage | None:
    """What lacks between two segments that should follow each other."""
    next_sequence = older.first + older.count
    if next_sequence >= newer.first:
        return None
    return Damage(
        older.path,
        older.end,
        f"damaged, cut, or not the segment before {os.path.basename(newer.path)}: messages"
        f" {next_sequence} to {newer.first - 1} are lost",
        "Restore what lacks from a copy; or, to go on without all messages before"
        f" {newer.first}, move this file and older ones out of its directory",
    )


def _check_joint(older: Segment, newer: Segment) -> None:
    """Raises StoreError where messages lack. What the older one has too much was never
    acknowledged: a commit failed, and its messages could not be taken back."""
    damage = missing(older, newer)
    if damage is not None:
        raise StoreError(str(damage))
    older.keep(newer.first - older.first)


def misplaced(segment: Segment, name: str, older: Sequence[Segment]) -> Damage | None:
    """What is wrong with a segment's name, or with its being in this directory."""
    advice = "Move the file out of this directory"
    if segment.first != int(name.removesuffix(SUFFIX)):
        text = f"this file was once called {segment.first:0{_DIGITS}d}{SUFFIX}"
        return Damage(segment.path, 0, text, "Give it that name again")
    if older and segment.channel != older[0].channel:
        text = f"it belongs to the channel {shown(segment.channel)}"
        return Damage(segment.path, 0, text, advice)
    return None


def _mend_header(
    path: str, error: DamagedHeader, repairs: list[str], *, is_last: bool, repair: bool
) -> None:
    if not (error.is_torn and is_last):
        raise StoreError(
            f"{error}. Restore the file from a copy; or, to go on without all messages up to the"
            " end of this file, move it and older ones out of its directory"
        )
    if not repair:
        raise StoreError(
            f"{error}: it was being made and holds no message. Set `repair: true` in `file {{ }}`,"
            " or remove it"
        )
    os.unlink(path)
    sync_directory(os.path.dirname(path))
    repairs.append(f"{path}: removed, it was being made and held no message")


def _remove_strays(directory: str, files: Sequence[str], names: Sequence[str]) -> None:
    """Sidecars without a segment, and half-written ones."""
    stems = {name.removesuffix(SUFFIX) for name in names}
    for name in files:
        stem, _, suffix = name.partition(".")
        if f".{suffix}" == SUFFIX or not _is_number(stem):
            continue
        if suffix.endswith(".new") or (f".{suffix}" == SIDECAR_SUFFIX and stem not in stems):
            os.unlink(f"{directory}/{name}")


def _is_number(stem: str) -> bool:
    return len(stem) == _DIGITS and stem.isascii() and stem.isdigit()


def clamp(channel: bytes, last: int, row: SubscriptionRow, repairs: list[str]) -> SubscriptionRow:
    """A subscription that is not further than the log: it may have outlived the end of it."""
    if row.last_sent <= last and (not row.pending or row.pending[-1] <= last):
        return row
    repairs.append(
        f"channel {shown(channel)}: subscription {row.id} was at {row.last_sent}, the log ends"
        f" with {last}"
    )
    pending = tuple(sequence for sequence in row.pending if sequence <= last)
    return replace(row, last_sent=min(row.last_sent, last), pending=pending)
