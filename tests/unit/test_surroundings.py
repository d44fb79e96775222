"""What the server says of a system that is too small for it, and that it says nothing else."""

import math
from pathlib import Path

import pytest

from shardd import limits
from shardd.config.core import Config
from shardd.config.model import Cluster
from shardd.surroundings import (
    DESCRIPTORS_OWN,
    DESCRIPTORS_PER_PROCESS,
    Surroundings,
    complaints,
    look,
    memory_needed,
)

CONFIG = Config(workers=4, max_connections=10_000)
OWN = DESCRIPTORS_OWN + 4 * DESCRIPTORS_PER_PROCESS


@pytest.mark.parametrize(
    "found",
    [
        Surroundings(),
        Surroundings(
            open_files=2500 + OWN,
            backlog_max=limits.LISTEN_BACKLOG,
            cores=3.5,
            memory_bytes=memory_needed(CONFIG),
            memory_key="memory.max",
            commit_bytes_left=memory_needed(CONFIG),
        ),
    ],
)
def test_nothing_is_said_when_all_is_well_or_not_known(found: Surroundings) -> None:
    assert complaints(CONFIG, found) == []


@pytest.mark.parametrize(
    ("found", "begin", "advice"),
    [
        (
            Surroundings(open_files=1024),
            "A process may open 1024 files (RLIMIT_NOFILE), which is enough for about 3712",
            f"raise the limit to {2500 + OWN} (LimitNOFILE=",
        ),
        (Surroundings(backlog_max=128), "net.core.somaxconn is 128", "set it to 4096"),
        (
            Surroundings(cores=1.5),
            "This cgroup may use the time of 1.5 cores, 4 workers start",
            "set workers to 2",
        ),
        (
            Surroundings(memory_bytes=64 << 20, memory_key="memory.max"),
            "memory.max of this cgroup is 64 MiB, 4 processes",
            "start fewer workers",
        ),
        (
            Surroundings(commit_bytes_left=-5),
            "vm.overcommit_memory is 2 and 0 MiB may still be promised",
            "vm.overcommit_ratio",
        ),
    ],
)
def test_what_is_too_small_is_one_line_with_what_to_do(
    found: Surroundings, begin: str, advice: str
) -> None:
    (line,) = complaints(CONFIG, found)

    assert line.startswith(begin)
    assert advice in line
    assert "\n" not in line


def test_without_balancing_one_worker_may_get_every_connection() -> None:
    config = Config(workers=4, max_connections=10_000, balance=False)
    found = Surroundings(open_files=9000)

    (line,) = complaints(config, found)
    assert f"raise the limit to {10_000 + OWN}" in line
    assert complaints(CONFIG, found) == []


def test_the_default_of_max_connections_is_nobody_s_wish() -> None:
    default = Config(workers=4)

    assert complaints(default, Surroundings(open_files=2500 + OWN)) == []
    (line,) = complaints(default, Surroundings(open_files=2499 + OWN))
    assert f"max_connections is {limits.CONNECTIONS_MAX}" in line


def test_a_server_that_refuses_everybody_needs_no_descriptors() -> None:
    assert complaints(Config(workers=4, max_connections=0), Surroundings(open_files=20)) == []


def test_every_process_counts_with_its_ring() -> None:
    larger = Config(workers=4, cluster=Cluster(), ring_bytes=1 << 26)

    assert memory_needed(larger) - memory_needed(CONFIG) > 5 * (1 << 26) - 4 * limits.RING_BYTES


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_limits_of_a_cgroup_of_version_2_are_the_narrowest_on_the_way_up(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/system.slice/shardd.service\n",
            "sys/fs/cgroup/system.slice/cpu.max": "150000 100000\n",
            "sys/fs/cgroup/system.slice/memory.max": "max\n",
            "sys/fs/cgroup/system.slice/shardd.service/cpu.max": "max 100000\n",
            "sys/fs/cgroup/system.slice/shardd.service/memory.max": "268435456\n",
            "sys/fs/cgroup/system.slice/shardd.service/memory.high": "134217728\n",
            "proc/sys/net/core/somaxconn": "128\n",
            "proc/sys/vm/overcommit_memory": "0\n",
        },
    )
    found = look(root)

    assert (found.cores, found.memory_bytes, found.memory_key) == (1.5, 134217728, "memory.high")
    assert (found.backlog_max, found.commit_bytes_left) == (128, None)


def test_a_container_that_shows_its_own_cgroup_at_the_top_is_understood(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/../../pod7/abc\n",
            "sys/fs/cgroup/cpu.max": "50000 100000\n",
            "sys/fs/cgroup/memory.max": "268435456\n",
        },
    )

    assert (look(root).cores, look(root).memory_bytes) == (0.5, 268435456)


def test_limits_of_cgroups_of_version_1(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/a\n1:cpu,cpuacct:/docker/a\n0::/\n",
            "sys/fs/cgroup/cpu/docker/a/cpu.cfs_quota_us": "200000\n",
            "sys/fs/cgroup/cpu/docker/a/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/memory/docker/a/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": "536870912\n",
        },
    )
    found = look(root)

    assert (found.cores, found.memory_bytes) == (2.0, 536870912)


def test_where_nothing_can_be_read_nothing_is_known(tmp_path: Path) -> None:
    found = look(tmp_path)

    assert found == Surroundings(open_files=found.open_files)
    garbage = {
        "proc/self/cgroup": "x\n0:\n0::/a\n",
        "sys/fs/cgroup/cpu.max": "1 2 3\n",
        "sys/fs/cgroup/memory.max": "-1\n",
        "proc/sys/net/core/somaxconn": "\n",
        "proc/sys/vm/overcommit_memory": "2\n",
        "proc/meminfo": "CommitLimit: x\n",
    }
    assert look(write(tmp_path, garbage)) == found


def test_memory_that_is_not_overcommitted(tmp_path: Path) -> None:
    files = {
        "proc/sys/vm/overcommit_memory": "2\n",
        "proc/meminfo": "CommitLimit:   1000 kB\nCommitted_AS:   400 kB\n",
    }

    assert look(write(tmp_path, files)).commit_bytes_left == 600 * 1024


def test_the_real_system_can_be_read() -> None:
    found = look()

    assert found.open_files is None or found.open_files > 0
    assert found.cores is None or not math.isnan(found.cores)
