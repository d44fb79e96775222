"""What a run leaves behind: one JSON line for each metric of each load.

A ratio says how many times better the first server is than the second, for a rate as well as for
a time or a size, so that more than 1 is always better.
"""

import datetime
import json
import statistics
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

HISTORY: Final = Path(__file__).parent / "results" / "history.jsonl"


@dataclass(frozen=True, slots=True)
class Result:
    """One server's figures for one metric."""

    median: float
    rounds: Sequence[float]
    server_cpu_s_per_million: float
    generator_cpu_share: float


@dataclass(frozen=True, slots=True)
class Record:
    """One line of the history."""

    date: str
    commit: str
    machine: Mapping[str, object]
    options: Mapping[str, object]
    servers: Mapping[str, str]  # label to version, the first one is measured against the second
    load: str
    variant: str
    metric: str
    unit: str
    is_higher_better: bool
    results: Mapping[str, Result]
    ratio: float | None
    failures: Mapping[str, str]

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes records of different runs comparable."""
        return self.load, self.variant, self.metric

    @property
    def title(self) -> str:
        """The key as people read it."""
        placed = "" if self.variant == "any" else f" {self.variant}"
        return f"{self.load}{placed} {self.metric}"


@dataclass(frozen=True, slots=True)
class Change:
    """The last two records of one key."""

    before: Record
    after: Record

    @property
    def factor(self) -> float | None:
        """By how much the ratio has grown; None when one of the two has none."""
        if not self.before.ratio or self.after.ratio is None:
            return None
        return self.after.ratio / self.before.ratio


def ratio_of(first: float, second: float, *, is_higher_better: bool) -> float | None:
    """How many times better `first` is; None when that cannot be said."""
    if first <= 0 or second <= 0:
        return None
    return first / second if is_higher_better else second / first


def summarize(
    rounds: Sequence[float], server_cpu: Sequence[float], generator_share: Sequence[float]
) -> Result:
    """The medians over the rounds of one server."""
    return Result(
        statistics.median(rounds),
        list(rounds),
        statistics.median(server_cpu),
        statistics.median(generator_share),
    )


def now() -> str:
    """The date of a run, UTC."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def current_commit() -> str:
    """The checkout's commit, with a plus sign when files differ from it."""
    root = Path(__file__).parent
    try:
        commit = _git(root, "rev-parse", "--short=12", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def append(path: Path, records: Iterable[Record]) -> None:
    """Add a run's records to the history."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as lines:
        for record in records:
            lines.write(json.dumps(asdict(record)) + "\n")


def read(path: Path) -> list[Record]:
    """The whole history, oldest first."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = json.loads(line)
        fields["results"] = {label: Result(**result) for label, result in fields["results"].items()}
        records.append(Record(**fields))
    return records


def latest(records: Iterable[Record]) -> list[Record]:
    """The last record of each key that has a ratio, in the order of the history."""
    last = {record.key: record for record in records if record.ratio is not None}
    return list(last.values())


def changes(records: Iterable[Record]) -> list[Change]:
    """The last two records of each key that has two."""
    pairs: dict[tuple[str, str, str], list[Record]] = {}
    for record in records:
        pairs.setdefault(record.key, []).append(record)
    return [Change(both[-2], both[-1]) for both in pairs.values() if len(both) >= 2]
