"""The `nats` command line, unchanged, looks at servers by the system account."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conformance.test_monitoring import CONFIG
from tests.support.broker import Broker
from tests.support.fixtures import Dial, Serve
from tests.support.programs import go_tool
from tests.support.waiting import PATIENCE, wait_until

NATS: Final = "github.com/nats-io/natscli/nats@v0.4.0"

# Slow for the sake of the build: a clean tree compiles the command for the better part of a minute.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(400 * PATIENCE)]


class Nats:
    """The command against one server, as a user of the system account."""

    def __init__(self, broker: Broker, home: Path, user: str = "s") -> None:
        self._command = [str(go_tool(NATS, "nats")), "-s", broker.url, "--timeout", "5s"]
        self._command += ["--user", user, "--password", "p"]
        self._environment = {**os.environ, "HOME": str(home), "NO_COLOR": "1"}

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [*self._command, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self._environment,
            timeout=60 * PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def document(self, *words: str) -> Any:
        return json.loads(self(*words))


def test_the_command_sees_the_same_on_both(serve: Serve, dial: Dial, tmp_path: Path) -> None:
    broker = serve(CONFIG)
    nats = Nats(broker, tmp_path)
    client = dial(broker).connect(user="u", **{"pass": "p"}, name="first", lang="go")
    client.subscribe(b"foo.*", b"1")
    client.publish(b"bar", b"12345")
    client.ping()

    (listed,) = nats.document("server", "list", "--json")
    assert listed["server"]["name"] == "one"
    assert listed["statsz"]["connections"] == 2
    assert "Server information for one" in nats("server", "info", "one")
    assert "one" in nats("server", "ping")
    report = nats("server", "report", "connections", "--account", "A")
    assert "first" in report
    assert "second" not in report
    assert "first" in nats("server", "report", "connections", "--account=A", "--subject=foo.x")
    accounts = nats("server", "report", "accounts")
    assert "A" in accounts
    assert "SYS" in accounts
    for what in ("cpu", "mem", "routes", "gateways", "leafnodes"):
        nats("server", "report", what)
    assert "OK one" in nats("server", "check", "server", "--name", "one")
    assert "OK Connection" in nats("server", "check", "connection")
    shared = nats("server", "account", "info", "A")
    assert "data.>" in shared
    assert "new.$1" in shared
    assert "User: s" in nats("account", "info")
    assert "Account: A" in Nats(broker, tmp_path, "u")("account", "info")


def test_the_command_requests_documents(serve: Serve, tmp_path: Path) -> None:
    nats = Nats(serve(CONFIG), tmp_path)
    for what in (
        *("variables", "connections", "subscriptions", "accounts"),
        *("routes", "gateways", "leafnodes"),
    ):
        answer = nats.document("server", "request", what, "1")
        assert answer["server"]["name"] == "one"
        assert answer["data"]["server_id"] == answer["server"]["id"]


def test_the_command_orders(serve: Serve, dial: Dial, tmp_path: Path) -> None:
    broker = serve(CONFIG)
    nats = Nats(broker, tmp_path)
    client = dial(broker).connect(user="u", **{"pass": "p"})
    server_id = client.info["server_id"]
    nats("server", "request", "kick", str(client.info["client_id"]), server_id)
    client.read_to_end()
    nats("server", "config", "reload", "--force", server_id)
    wait_until(lambda: "Reloaded server configuration" in broker.log_text(), "the reload")
