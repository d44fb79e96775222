"""`shardd bench` on nats-server and shardd: its figures are theirs, its failures are one line."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from shardd.auth.nkeys import KeyRole
from tests.conformance.test_operator_mode import APP, USER, configuration
from tests.support import certificates
from tests.support.broker import Broker
from tests.support.fixtures import Serve
from tests.support.nkeys import KeyPair, user_jwt
from tests.support.waiting import PATIENCE, wait_until

RUN_S = 30 * PATIENCE
OPEN = 'http: "127.0.0.1:-1"\n'
USERS = """
http: "127.0.0.1:-1"
authorization { users [
  { user: all, password: p }
  { user: few, password: p, permissions { publish: "a.>", subscribe: "b.>" } }
] }
"""


def environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("NATS_")}


def command(broker: Broker, *argv: str) -> list[str]:
    return [sys.executable, "-m", "shardd", "bench", "-s", broker.url, *argv]


def run(broker: Broker, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(broker, *argv),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
        env=environment(),
    )


def document(broker: Broker, *argv: str) -> dict[str, Any]:
    """What a run that does well says as JSON."""
    done = run(broker, *argv, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def failure(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a run that fails says."""
    assert (done.returncode, done.stdout) == (1, ""), done
    (line,) = done.stderr.splitlines()
    assert line.startswith("shardd: ")
    return line.removeprefix("shardd: ")


def varz(broker: Broker) -> dict[str, Any]:
    with urllib.request.urlopen(f"{broker.monitoring}/varz", timeout=RUN_S) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def await_traffic(broker: Broker, **counts: int) -> None:
    """Wait until the server has counted exactly this since it was started."""
    wait_until(lambda: {name: varz(broker)[name] for name in counts} == counts, str(counts))


@pytest.fixture
def background(no_leaks: None) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """`background(broker, ...)`: a run that is ended after the test."""
    started: list[subprocess.Popen[str]] = []

    def start(broker: Broker, *argv: str) -> "subprocess.Popen[str]":
        started.append(
            subprocess.Popen(
                command(broker, *argv),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment(),
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_figures_are_what_the_server_counted(serve: Serve, tmp_path: Path) -> None:
    server = serve(OPEN)
    rows = tmp_path / "rows.csv"
    shape = ("--pub", "3", "--sub", "2", "--msgs", "5000", "--size", "100", "--subjects", "7")
    found = document(server, "foo", *shape, "--csv", str(rows))
    published, received = found["published"], found["received"]
    assert (published["messages"], published["bytes"]) == (5000, 500_000)
    assert (received["messages"], received["bytes"]) == (10_000, 1_000_000)
    assert [each["messages"] for each in published["clients"]] == [1667, 1667, 1666]
    assert [each["messages"] for each in received["clients"]] == [5000, 5000]
    assert received["messages_per_s"] == pytest.approx(10_000 / received["seconds"])
    assert received["per_client"]["min"] <= received["per_client"]["avg"]
    await_traffic(server, in_msgs=5000, out_msgs=10_000, in_bytes=500_000, out_bytes=1_000_000)
    lines = rows.read_text().splitlines()
    assert [line.split(",")[:4] for line in lines[1:]] == [
        ["published", "0", "1667", "166700"],
        ["published", "1", "1667", "166700"],
        ["published", "2", "1666", "166600"],
        ["published", "all", "5000", "500000"],
        ["received", "0", "5000", "500000"],
        ["received", "1", "5000", "500000"],
        ["received", "all", "10000", "1000000"],
    ]


@pytest.mark.slow
def test_a_queue_group_shares_what_a_schedule_publishes(serve: Serve) -> None:
    server = serve(OPEN)
    shape = ("--sub", "3", "--pub", "2", "--queue", "q", "--msgs", "300", "--rate", "3000")
    found = document(server, "foo", *shape, "-H", "a: b")
    assert (found["published"]["messages"], found["received"]["messages"]) == (300, 300)
    assert found["published"]["seconds"] > 0.09
    latency = found["latency_us"]
    assert latency["count"] == found["lateness_us"]["count"] == 300
    assert 0 < latency["min"] <= latency["p50"] <= latency["p99"] <= latency["max"]
    await_traffic(server, in_msgs=300, out_msgs=300)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [(), ("--rate", "2000")])
def test_requests_are_answered_once_each(serve: Serve, rate: tuple[str, ...]) -> None:
    server = serve(OPEN)
    found = document(server, "foo", "--request", "--pub", "4", "--sub", "2", "--msgs", "200", *rate)
    assert found["requested"]["messages"] == found["answered"]["messages"] == 200
    assert found["latency_us"]["count"] == 200
    assert ("lateness_us" in found) == bool(rate)
    await_traffic(server, in_msgs=400, out_msgs=400)


@pytest.mark.slow
def test_a_table_is_for_people(serve: Serve) -> None:
    done = run(serve(OPEN), "foo", "--pub", "2", "--msgs", "1000", "--size", "16")
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 publishers, 16 bytes" in done.stdout
    assert re.search(r"^published by 2 +1,000 ", done.stdout, re.MULTILINE)


@pytest.mark.slow
def test_it_counts_what_others_publish_until_it_is_interrupted(
    serve: Serve, background: Callable[..., "subprocess.Popen[str]"]
) -> None:
    server = serve(OPEN)
    before = varz(server)["subscriptions"]
    counting = background(server, "foo.*", "--sub", "2", "--json")
    wait_until(lambda: varz(server)["subscriptions"] == before + 2, "both are subscribed")
    document(server, "foo.bar", "--pub", "1", "--msgs", "50")
    await_traffic(server, out_msgs=100)
    counting.send_signal(signal.SIGINT)
    out, err = counting.communicate(timeout=RUN_S)
    assert (counting.returncode, err) == (0, "")
    assert json.loads(out)["received"]["messages"] == 100


@pytest.mark.slow
def test_an_interrupted_load_shows_what_it_measured(
    serve: Serve, background: Callable[..., "subprocess.Popen[str]"]
) -> None:
    server = serve(OPEN)
    running = background(server, "foo", "--duration", "10m", "--json")
    wait_until(lambda: varz(server)["out_msgs"] > 0, "the load runs")
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=RUN_S)
    assert (running.returncode, err) == (130, "")
    found = json.loads(out)
    assert found["stopped"]
    assert found["published"]["messages"] == found["received"]["messages"] > 0


@pytest.mark.slow
def test_a_server_that_dies_ends_the_load(
    serve: Serve, background: Callable[..., "subprocess.Popen[str]"]
) -> None:
    server = serve(OPEN)
    running = background(server, "foo", "--sub", "1", "--pub", "1", "--duration", "10m")
    wait_until(lambda: varz(server)["out_msgs"] > 0, "the load runs")
    server.stop()
    out, err = running.communicate(timeout=RUN_S)
    assert (running.returncode, out) == (1, "")
    assert re.fullmatch(r"shardd: (publish|subscrib)er 1: the server .*\n", err)


@pytest.mark.slow
def test_what_the_server_refuses_is_one_line(serve: Serve) -> None:
    server = serve(USERS)
    few = ("--user", "few", "--password", "p", "--msgs", "100")
    violation = 'the server says: Permissions Violation for {} to "{}"'
    line = failure(run(server, "b.c", *few, "--pub", "1"))
    assert line == "publisher 1: " + violation.format("Publish", "b.c")
    line = failure(run(server, "a.c", *few, "--sub", "1"))
    assert line == "subscriber 1: " + violation.format("Subscription", "a.c")
    wrong = failure(run(server, "a", "--user", "all", "--password", "secret"))
    assert "could not connect to 127.0.0.1" in wrong
    assert "Authorization Violation" in wrong
    assert "secret" not in wrong


@pytest.mark.slow
def test_what_cannot_be_is_one_line(serve: Serve) -> None:
    server = serve("max_payload: 1000\n")
    line = failure(run(server, "a", "--size", "1001"))
    assert line == "a message of 1001 bytes is more than the server takes (1000)"
    line = failure(run(server, "a", "--request", "--pub", "1", "--msgs", "1"))
    assert line == "no responders: nobody answers on this subject"


@pytest.mark.slow
@pytest.mark.parametrize("shape", [("--msgs", "3000"), ("--request", "--msgs", "100")])
def test_all_of_it_over_tls(serve: Serve, shape: tuple[str, ...]) -> None:
    issued, authority = certificates.server(), certificates.authority()
    server = serve(
        f"""{OPEN} tls {{ cert_file: '{issued.certificate}', key_file: '{issued.key}' }}"""
    )
    trust = ("--cacert", str(authority.certificate))
    found = document(server, "foo", "--pub", "2", "--sub", "2", "--size", "3000", *shape, *trust)
    sides = [each["messages"] for name, each in found.items() if "clients" in (each or ())]
    assert sides == ([100, 100] if "--request" in shape else [3000, 6000])


@pytest.mark.slow
def test_users_who_sign_are_let_in_by_their_seed(serve: Serve, tmp_path: Path) -> None:
    key, stranger = KeyPair(KeyRole.USER, 41), KeyPair(KeyRole.USER, 42)
    server = serve(f"{OPEN} authorization {{ users [ {{ nkey: {key.public} }} ] }}")
    seed = tmp_path / "seed"
    seed.write_text(f"{key.seed}\n")
    found = document(
        server, "foo", "--nkey", str(seed), "--pub", "2", "--sub", "1", "--msgs", "500"
    )
    assert found["received"]["messages"] == 500
    await_traffic(server, in_msgs=500, out_msgs=500)
    seed.write_text(stranger.seed)
    refused = failure(run(server, "foo", "--nkey", str(seed)))
    assert "Authorization Violation" in refused
    seed.write_text(stranger.public)
    wrong = failure(run(server, "foo", "--nkey", str(seed)))
    assert wrong.startswith(f"{seed}: ")
    assert stranger.public not in wrong


@pytest.mark.slow
def test_users_of_an_operator_are_let_in_by_their_credentials(serve: Serve, tmp_path: Path) -> None:
    server = serve(OPEN + configuration())
    file = tmp_path / "user.creds"
    file.write_text(
        f"""-----BEGIN NATS USER JWT-----
{user_jwt(APP, USER)}
------END NATS USER JWT------

************************* IMPORTANT *************************

-----BEGIN USER NKEY SEED-----
{USER.seed}
------END USER NKEY SEED------
"""
    )
    # The account lets two connections in at a time, and one comes first that only looks.
    found = document(server, "foo", "--creds", str(file), "--pub", "1", "--msgs", "500")
    assert found["published"]["messages"] == 500
    await_traffic(server, in_msgs=500)
    many = failure(run(server, "foo", "--creds", str(file), "--pub", "3"))
    assert "maximum account active connections exceeded" in many


@pytest.mark.slow
def test_tls_may_come_before_all_else(serve: Serve) -> None:
    issued, authority = certificates.server(), certificates.authority()
    files = f"cert_file: '{issued.certificate}', key_file: '{issued.key}'"
    trust = ("--cacert", str(authority.certificate))
    server = serve(f"{OPEN} tls {{ {files}, handshake_first: true }}")
    found = document(
        server, "foo", "--tls-first", "--msgs", "3000", "--sub", "1", "--pub", "1", *trust
    )
    assert found["received"]["messages"] == 3000
    late = failure(run(server, "foo", "--timeout", "1s", *trust))
    assert late.startswith("could not connect to 127.0.0.1:")
    untrusted = failure(run(server, "foo", "--tls-first"))
    assert "its certificate is not trusted" in untrusted
    plain = serve(OPEN)
    assert "tls: " in failure(run(plain, "foo", "--tls-first", *trust))
