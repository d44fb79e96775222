"""Times and durations in the very texts that Go and nats-server write."""

import pytest

from shardd.moments import duration_text, time_text, uptime_text
from shardd.values import parse_duration


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_700_000_000_000_000_000, "2023-11-14T22:13:20Z"),
        (1_700_000_000_500_000_000, "2023-11-14T22:13:20.5Z"),
        (1_700_000_000_000_000_001, "2023-11-14T22:13:20.000000001Z"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456789Z"),
    ],
)
def test_a_time_is_rfc_3339_with_as_many_digits_as_it_needs(nanoseconds: int, text: str) -> None:
    assert time_text(nanoseconds) == text


@pytest.mark.parametrize(
    ("nanoseconds", "text"),
    [
        (0, "0s"),
        (1, "1ns"),
        (999, "999ns"),
        (1000, "1\u00b5s"),
        (1500, "1.5\u00b5s"),
        (358_000, "358\u00b5s"),
        (1_200_000, "1.2ms"),
        (100_000_000, "100ms"),
        (1_641_885_750, "1.64188575s"),
        (10_000_000_000, "10s"),
        (60_000_000_000, "1m0s"),
        (3_600_000_000_000, "1h0m0s"),
        (3_661_500_000_000, "1h1m1.5s"),
        (360_000_000_000_000, "100h0m0s"),
    ],
)
def test_a_duration_is_written_as_go_does_and_can_be_read(nanoseconds: int, text: str) -> None:
    assert duration_text(nanoseconds) == text
    assert round(parse_duration(text) * 1e9) == nanoseconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-0.5, "0s"),
        (0.9, "0s"),
        (4, "4s"),
        (60, "1m0s"),
        (3600, "1h0m0s"),
        (86_400, "1d0h0m0s"),
        (365 * 86_400 + 2 * 86_400 + 3 * 3600 + 4 * 60 + 5.9, "1y2d3h4m5s"),
    ],
)
def test_an_uptime_is_in_whole_seconds_without_leading_zeros(seconds: float, text: str) -> None:
    assert uptime_text(seconds) == text
