"""What `shardd top` and `shardd server check` make of documents."""

import copy
from typing import Any

import pytest
from rich.console import Console

from shardd.cli import check, top
from shardd.cli.check import Bound, Level


def documents() -> dict[str, Any]:
    rates = dict.fromkeys(("in_msgs", "out_msgs", "in_bytes", "out_bytes"), 0)
    counters = dict.fromkeys(
        (
            *("messages_in", "messages_out", "bytes_in", "bytes_out", "loop_late_us"),
            *("connections", "subscriptions", "ring_used", "mem"),
        ),
        0,
    )
    return {
        "health": {"status": "ok"},
        "varz": {
            **rates,
            "server_id": "ID",
            "server_name": "one",
            "now": "2026-01-01T00:00:00.5Z",
            "cpu": 5,
            "mem": 2048,
            "connections": 1,
            "subscriptions": 0,
            "slow_consumers": 0,
            "version": "2.15.1",
            "uptime": "1s",
        },
        "processes": [
            {"name": "worker-0", "pid": 7, "state": "ready", "cpu": 1, "ring_size": 8, **counters}
        ],
        "routes": [],
        "connections": [
            {
                "cid": 1,
                "name": "[red]x\x1b[31m",
                "ip": "::1",
                "port": 2,
                **rates,
                "pending_bytes": 0,
                "subscriptions": 0,
                "idle": "0s",
                "uptime": "0s",
            }
        ],
        "connections_total": 1,
    }


def test_rates_are_differences_over_the_server_s_own_time() -> None:
    before = documents()
    top.add_rates(before, None)
    now = copy.deepcopy(before)
    now["varz"] |= {"now": "2026-01-01T00:00:02.5Z", "in_msgs": 100}
    now["connections"][0]["out_bytes"] = 50
    now["processes"][0]["loop_late_us"] = 4000
    top.add_rates(now, before)
    assert now["varz"]["rates"]["in_msgs"] == 50
    assert now["connections"][0]["rates"]["out_bytes"] == 25
    assert now["processes"][0]["rates"]["loop_late_us"] == 2000


def test_a_server_that_was_started_again_has_no_rates_yet() -> None:
    before = documents()
    before["varz"]["in_msgs"] = 5
    now = documents()
    now["varz"] |= {"server_id": "OTHER", "now": "2026-01-01T00:00:09Z", "in_msgs": 100}
    top.add_rates(now, before)
    assert now["varz"]["rates"]["in_msgs"] == 0


def test_what_clients_say_of_themselves_is_text() -> None:
    now = documents()
    top.add_rates(now, None)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(top.render(now, "cid"))
    text = console.export_text()
    console.file.close()
    assert "[red]x" in text
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (9999, "9999"), (12_345, "12.3k"), (4.56e6, "4.6M"), (2e9, "2.0G")],
)
def test_numbers_are_for_people(value: float, text: str) -> None:
    assert top.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (2048, "2.0 KiB"), (3 << 20, "3.0 MiB"), (5 << 30, "5.0 GiB")]
)
def test_sizes_are_for_people(value: float, text: str) -> None:
    assert top.size(value) == text


@pytest.mark.parametrize(
    ("bounds", "level"),
    [
        ((None, None), Level.OK),
        ((6, None), Level.OK),
        ((5, 9), Level.WARNING),
        ((None, 5), Level.CRITICAL),
        ((1, 2), Level.CRITICAL),
    ],
)
def test_the_worst_counts(bounds: tuple[float | None, float | None], level: Level) -> None:
    varz = documents()["varz"]
    judged = [Bound("connections", "", None, None), Bound("cpu", "%", *bounds)]
    found, text = check.judge(varz, {"status": "ok"}, judged)
    assert found is level
    assert text.startswith(f"{level.name} one")
    assert "cpu=5%;" in text


def test_a_server_that_is_not_ready_is_critical() -> None:
    varz = documents()["varz"]
    level, text = check.judge(varz, {"status": "error", "error": "Worker 0 is not ready"}, [])
    assert (level, text) == (Level.CRITICAL, "CRITICAL one: Worker 0 is not ready")
