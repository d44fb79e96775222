"""What holds for every test: support plugins, the crash sentinel, the long time limit, the seed."""

import logging
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings

from shardd import log

pytest_plugins = [
    "tests.support.fixtures",
    "tests.support.leaks",
    "tests.support.streaming_fixtures",
]

TIMEOUT_SLOW_S: Final = 600
SEED: Final = int(os.environ.get("SHARDD_TESTS_SEED") or random.SystemRandom().randrange(1 << 32))

# How fast examples are is a matter of the machine: no property fails or passes by time.
settings.register_profile("shardd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shardd")

# The test that runs now is named in this file. A crash of the interpreter, which is what a mistake
# in Cython code looks like, leaves it behind, and the next run says which test it was; the
# traceback itself comes from faulthandler, which pytest has switched on.
_sentinel_path: Path | None = None


def pytest_configure(config: pytest.Config) -> None:
    """Choose where the sentinel lives, and let programs that tests start hear interrupts."""
    global _sentinel_path
    # A shell starts what runs in the background with SIGINT ignored, and children inherit that.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    cache = getattr(config, "cache", None)  # absent under `-p no:cacheprovider`
    _sentinel_path = Path(cache.mkdir("shardd")) / "running" if cache else None


@pytest.fixture(autouse=True)
def _log_is_put_back() -> Iterator[None]:
    """Leaves the logging of this process as it was, whoever of the product set it up."""
    logger = logging.getLogger("shardd")
    level = logger.level
    yield
    log.close()
    logger.setLevel(level)


def pytest_report_header() -> list[str]:
    """The seed, and the test in which the run before this one died."""
    lines = [f"shardd: SHARDD_TESTS_SEED={SEED}"]
    if _sentinel_path is not None and _sentinel_path.exists():
        lines.append(f"shardd: the previous run died in {_sentinel_path.read_text()}")
    return lines


def pytest_runtest_logstart(nodeid: str) -> None:
    """Name the test that runs now."""
    if _sentinel_path is not None:
        _sentinel_path.write_text(nodeid)


def pytest_sessionfinish() -> None:
    """This run did not crash."""
    if _sentinel_path is not None:
        _sentinel_path.unlink(missing_ok=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give long tests a longer time limit than the default of pyproject.toml."""
    for item in items:
        if item.get_closest_marker("slow") or item.get_closest_marker("soak"):
            item.add_marker(pytest.mark.timeout(TIMEOUT_SLOW_S))


@pytest.fixture(scope="session")
def seed() -> int:
    """The number from which every random choice of this run follows."""
    return SEED


@pytest.fixture(scope="session")
def allow_missing() -> bool:
    """Whether tests that need shardd may be skipped where it cannot be started; never in CI."""
    return os.environ.get("SHARDD_TESTS_ALLOW_MISSING") == "1"
