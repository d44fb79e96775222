"""Runs of stan-bench, the Go client's own benchmark: how it is called, and what it reports."""

import re
import resource
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.load import LoadFailure
from bench.streaming.servers import CLUSTER_ID, find_tool

RUN_S: Final = 180.0
_REPORT: Final = re.compile(r"^\s*(Pub|Sub) stats: ([\d,]+) msgs/sec", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Job:
    """One run: so many messages of a size on one channel, published or replayed."""

    channel: str
    messages: int
    publishers: int = 1
    subscribers: int = 0
    message_bytes: int = 128
    in_flight: int = 512  # of each publisher; stan-bench's own default

    def command(self, url: str) -> list[str]:
        """The command line; the channel's name serves as client id."""
        return [
            str(find_tool("stan-bench")),
            *("-s", url, "-c", CLUSTER_ID, "-id", self.channel),
            *("-np", str(self.publishers), "-ns", str(self.subscribers)),
            *("-n", str(self.messages), "-ms", str(self.message_bytes)),
            *("-mpa", str(self.in_flight), self.channel),
        ]

    @property
    def handled(self) -> int:
        """Messages published and delivered."""
        published = self.messages if self.publishers else 0
        return published + self.messages * self.subscribers


@dataclass(frozen=True, slots=True)
class Report:
    """Messages per second, as stan-bench has it: over all publishers, over all subscribers."""

    published: float = 0.0
    delivered: float = 0.0


def parse_report(text: str) -> Report:
    """The figures in what stan-bench printed."""
    figures = {kind: float(rate.replace(",", "")) for kind, rate in _REPORT.findall(text)}
    if not figures:
        raise LoadFailure(f"stan-bench reported nothing: {text.strip()[-400:]!r}")
    return Report(figures.get("Pub", 0.0), figures.get("Sub", 0.0))


def run_jobs(url: str, jobs: Sequence[Job]) -> list[Report]:
    """All at once; each must end well."""
    running = [
        subprocess.Popen(
            job.command(url), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for job in jobs
    ]
    reports = []
    try:
        for process in running:
            output, _ = process.communicate(timeout=RUN_S)
            if process.returncode:
                raise LoadFailure(f"stan-bench failed: {output.strip()[-400:]!r}")
            reports.append(parse_report(output))
    except subprocess.TimeoutExpired as late:
        raise LoadFailure(f"stan-bench did not end in {RUN_S:.0f} s") from late
    finally:
        for process in running:
            process.kill()
            process.wait()
    return reports


def children_cpu_s() -> float:
    """Processor time of all generators that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
