"""A real server as a service manager runs it: it is told how it is, its log is JSON and rotates."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import psutil

from tests.support.waiting import WAIT_S, wait_until

ROOT = Path(__file__).resolve().parents[2]
FILE = """
port: -1
host: "127.0.0.1"
http: "127.0.0.1:-1"
server_name: hosted
cluster {{ listen: "127.0.0.1:-1", name: c }}
log_file: "{directory}/server.log"
ports_file_dir: "{directory}"
log_size_limit: 3000
debug: true
trace: true
shardd {{ workers: 2, log_format: json }}
"""


def records(directory: Path) -> list[dict[str, Any]]:
    """Every line of the log and its backups; each must be a whole object."""
    lines = []
    for path in sorted(directory.glob("server.log*")):
        lines += path.read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_a_server_as_a_service_manager_runs_it(tmp_path: Path) -> None:
    """One server for all of it, since each start costs a second."""
    (tmp_path / "server.conf").write_text(FILE.format(directory=tmp_path))
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(tmp_path / "notify"))
    manager.settimeout(WAIT_S)
    command = f'ulimit -n 300; exec "{sys.executable}" -m shardd -c "{tmp_path}/server.conf"'
    server = subprocess.Popen(
        ["sh", "-c", command],
        stdin=subprocess.DEVNULL,
        cwd=ROOT,
        env=os.environ | {"NOTIFY_SOCKET": f"{tmp_path}/notify", "WATCHDOG_USEC": "600000"},
    )
    try:
        _check(server, manager, tmp_path)
    finally:
        server.kill()
        server.wait()
        manager.close()


def _hear(manager: socket.socket, begin: str) -> str:
    while True:
        message = manager.recv(4096).decode()
        if message.startswith(begin):
            return message


def _check(server: "subprocess.Popen[bytes]", manager: socket.socket, directory: Path) -> None:
    assert "workers: 2" in _hear(manager, "READY=1")
    _hear(manager, "WATCHDOG=1")
    urls = json.loads((directory / f"shardd_{server.pid}.ports").read_text())
    address = re.fullmatch(r"nats://(.*):(\d+)", urls["nats"][0])
    assert address is not None
    for _ in range(20):
        with socket.create_connection((address[1], int(address[2])), WAIT_S) as client:
            client.sendall(b'CONNECT {"verbose":false}\r\nSUB a\x1b[2J.b 1\r\nPING\r\n')
            received = b""
            while b"PONG" not in received:
                received += client.recv(4096)
    _check_metrics(urls["monitoring"][0])

    server.send_signal(signal.SIGHUP)
    _hear(manager, "RELOADING=1")
    _hear(manager, "READY=1")
    victim = next(each for each in psutil.Process(server.pid).children())
    victim.kill()
    wait_until(lambda: any("replacing it" in each["message"] for each in records(directory)), "it")
    server.send_signal(signal.SIGTERM)
    _hear(manager, "STOPPING=1")
    assert server.wait(WAIT_S) == 0
    _check_log(directory)


def _check_log(directory: Path) -> None:
    found = records(directory)
    assert len(list(directory.glob("server.log.*"))) >= 2
    rotated = [each for each in found if each["message"].startswith("Rotated log, backup saved")]
    assert len(rotated) == len(list(directory.glob("server.log.*")))
    assert {"supervisor", "worker 0", "worker 1"} <= {each["process"] for each in found}
    created = {each["cid"] for each in found if each["message"].endswith("connection created")}
    assert len(created) == 20
    (warning,) = [each for each in found if "RLIMIT_NOFILE" in each["message"]]
    assert warning["level"] == "warning"
    assert "max_connections is 65536" in warning["message"]


def _check_metrics(url: str) -> None:
    """Every series that is served stands in the document, and no other one does."""
    with urllib.request.urlopen(f"{url}/metrics", timeout=WAIT_S) as answer:
        text = answer.read().decode()
    served = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    document = (ROOT / "docs" / "operations.md").read_text()
    table = set(re.findall(r"^\| `(shardd_\w+)` \|", document, re.MULTILINE))
    assert served == table
