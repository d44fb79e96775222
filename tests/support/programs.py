"""The official clients of other languages, as programs that try one scenario after the other.

A program is made ready once, below `build/`, from what its lock file names: the first time this
fetches packages. Where the language or the packages cannot be had, tests that need it are skipped.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.waiting import PATIENCE

Scenario = Mapping[str, Any]

_SOURCES: Final = Path(__file__).resolve().parents[1] / "clients"
_BUILD: Final = _SOURCES.parents[1] / "build" / "clients"
_MAKE_S: Final = 300.0
_RUN_S: Final = 120.0 * PATIENCE


def try_node(scenarios: Sequence[Scenario]) -> list[dict[str, Any]]:
    """What the client for Node saw in each scenario."""
    return _run(["node", str(node_directory() / "trial.mjs")], scenarios)


def try_go(scenarios: Sequence[Scenario]) -> list[dict[str, Any]]:
    """What the client for Go saw."""
    return _run([str(go_program())], scenarios)


@cache
def browser_page() -> Path:
    """The script of a page with the client in it, in one piece."""
    directory = node_directory()
    script = directory / "page.js"
    bundler = [str(directory / "node_modules/.bin/esbuild"), "page.mjs", f"--outfile={script}"]
    _make("node", [*bundler, "--bundle", "--format=esm", "--log-level=error"], directory)
    return script


@cache
def go_tool(module: str, name: str) -> Path:
    """A program of a module (`path@version`), built the first time it is asked for."""
    directory = _BUILD.parent / "tools"
    directory.mkdir(parents=True, exist_ok=True)
    program = directory / name
    if not program.exists():
        _make("go", ["go", "install", module], directory, {"GOBIN": str(directory)})
    return program


def _run(command: list[str], scenarios: Sequence[Scenario]) -> list[dict[str, Any]]:
    done = subprocess.run(
        command,
        input=json.dumps(scenarios),
        capture_output=True,
        text=True,
        timeout=_RUN_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(results) == len(scenarios)
    return results


@cache
def node_directory(name: str = "node") -> Path:
    """The directory of a program for Node, its packages installed."""
    directory = _BUILD / name
    _copy(name, directory)
    _make("npm", ["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], directory)
    return directory


@cache
def go_program(name: str = "go") -> Path:
    """A program in Go, compiled."""
    directory = _BUILD / name
    _copy(name, directory)
    _make("go", ["go", "build", "-o", "trial", "."], directory)
    return directory / "trial"


def _copy(name: str, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for path in (_SOURCES / name).iterdir():
        if path.is_file():
            shutil.copy(path, directory)


def _make(
    tool: str, command: list[str], directory: Path, more: Mapping[str, str] | None = None
) -> None:
    """Run what makes a program ready; skip the test if it is not there or reaches nothing."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run(
        command,
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=_MAKE_S,
        env={**os.environ, "GOFLAGS": "-mod=mod", **(more or {})},
        check=False,
    )
    if done.returncode:
        pytest.skip(f"{tool} cannot make the client ready: {done.stderr.strip()[-300:]}")
