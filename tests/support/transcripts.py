"""What a client program of another language saw in one scenario, line by line, and what it should.

The program writes a JSON object a line; a line {"ask": ...} is a wish, fulfilled here before it
goes on. What the original server gave stands in `tests/streaming/transcripts/`; every server must
give the same, the original included. `SHARDD_TESTS_RECORD=1` writes those files anew.
"""

import json
import os
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import pytest

from tests.support.streaming_server import CLUSTER_ID, ORIGINAL, StreamingServer
from tests.support.waiting import PATIENCE

RECORDED: Final = Path(__file__).resolve().parents[1] / "streaming" / "transcripts"
IS_RECORDING: Final = os.environ.get("SHARDD_TESTS_RECORD") == "1"
RUN_S: Final = 60.0 * PATIENCE

Line = dict[str, Any]


def fulfil(server: StreamingServer, wish: str) -> None:
    """Do to the server what a scenario asks for."""
    for step in wish.split(" and "):
        {"stop": server.stop, "kill": server.kill_all, "start": server.start}[step]()


def play(command: Sequence[str], scenario: str, server: StreamingServer) -> list[Line]:
    """Run one scenario with names of its own; fail with all that was seen when it does."""
    names = uuid4().hex[:8]
    process = subprocess.Popen(
        [*command, scenario, server.url, CLUSTER_ID, names],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    # A program that hangs is ended, and with that its output.
    watchdog = threading.Timer(RUN_S, process.kill)
    watchdog.start()
    seen: list[Line] = []
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            for text in process.stdout:
                line: Line = json.loads(text)
                if "ask" in line:
                    fulfil(server, line["ask"])
                    process.stdin.write("done\n")
                    process.stdin.flush()
                else:
                    seen.append(line)
            errors = process.stderr.read()
        finally:
            process.kill()
            watchdog.cancel()
            watchdog.join()
    assert process.returncode == 0, f"{errors}\nafter {shown(seen)}\n{server.log_text()[-2000:]}"
    return json.loads(json.dumps(seen).replace(names, ""))  # type: ignore[no-any-return]


def shown(lines: Sequence[Line]) -> str:
    """A transcript as people read it."""
    return "\n".join(json.dumps(line) for line in lines)


def judge(client: str, scenario: str, server: StreamingServer, seen: list[Line]) -> None:
    """Compare with what the original gave, or keep it when the original is recorded."""
    path = RECORDED / f"{client}-{scenario}.jsonl"
    if IS_RECORDING:
        if server.kind != ORIGINAL:
            pytest.skip("only the original is recorded")
        path.write_text(shown(seen) + "\n")
    assert shown(seen) + "\n" == path.read_text()
