"""The corpus of configuration files: what nats-server takes and refuses, shardd takes and refuses.

Each file's name says what it holds. A refusal is one line, names the file and the same line of it,
ends with exit code 1 and starts nothing.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from shardd.config.load import Loaded, load_file
from shardd.errors import ConfigError
from tests.support.broker import nats_server_path

CORPUS = Path(__file__).with_name("config_corpus")
GOOD = sorted((CORPUS / "good").glob("*.conf"))
BAD = sorted((CORPUS / "bad").glob("*.conf"))


def check_with_nats_server(path: Path) -> subprocess.CompletedProcess[str]:
    """What nats-server says of a file."""
    command = [nats_server_path(), "-c", path.name, "-t"]
    return subprocess.run(
        command, cwd=path.parent, capture_output=True, text=True, check=False, timeout=30
    )


def check(path: Path) -> Loaded:
    """What `-t` does with a file."""
    loaded = load_file(str(path))
    if loaded.is_empty:
        raise ConfigError(f"{path}: config has no values or is empty")
    if loaded.conversions:
        raise ConfigError(loaded.conversions[0])
    return loaded


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_a_file_that_is_good_for_nats_server_is_good(path: Path) -> None:
    assert check_with_nats_server(path).returncode == 0
    check(path)


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_a_file_that_nats_server_refuses_is_refused(path: Path) -> None:
    theirs = check_with_nats_server(path)
    assert theirs.returncode == 1
    with pytest.raises(ConfigError) as caught:
        check(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    lines = re.findall(r"(?:\.conf:|on line )(\d+)", theirs.stderr)
    # At the end of a text nats-server may count one line more.
    found = re.search(r"\.conf:(\d+):", message)
    if lines and found:
        assert int(found[1]) in {int(line) + step for line in lines for step in (0, -1)}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`shardd` with these arguments."""
    command = [sys.executable, "-m", "shardd", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_a_check_says_that_a_file_is_valid_and_starts_nothing() -> None:
    path = CORPUS / "good" / "limits.conf"
    result = run("start", "-c", str(path), "-t")
    assert result.returncode == 0
    assert result.stdout == ""
    assert re.fullmatch(
        rf"shardd: configuration file {path} is valid \(sha256:[0-9a-f]{{64}}\)\n", result.stderr
    )


def test_a_file_that_is_refused_is_one_line_and_exit_code_1() -> None:
    path = CORPUS / "bad" / "unknown-field-in-a-block.conf"
    for more in (("-t",), ()):
        result = run("-c", str(path), *more)
        assert result.returncode == 1
        assert result.stdout == ""
        assert result.stderr == f'shardd: {path}:3:4: unknown field "bad"\n'


def test_a_password_that_is_wrong_is_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "secret.conf"
    path.write_text("authorization { user: a, pass: 123456789 }\n")
    result = run("-c", str(path), "-t")
    assert result.returncode == 1
    assert "123456789" not in result.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no_auth_user: zz\nauthorization { users: [ {user: a} ] }", "no_auth_user"),
        ("max_payload: 2mb\nmax_pending: 1mb", "max_payload"),
        ("websocket { port: -1 }", "websocket requires TLS"),
        ("port: 99999", "port"),
        ("shardd { workers: 0 }", "workers"),
        ("shardd { ring_size: 100000 }", "ring_size"),
        ("shardd { wrong: 1 }", 'unknown field "wrong"'),
        ("listen_unix { mode: 0660 }", "listen_unix needs a path"),
        ("listen_unix { path: /tmp/x, mode: rwx }", "octal"),
        ("listen_unix { path: '/tmp/x', users { 0: nobody } }", "nobody"),
        ("listen_unix: '/nonexistent/socket'", "/nonexistent/socket"),
        ("operator: eyJ.x.y\nresolver: MEMORY", "operator"),
    ],
)
def test_what_only_a_start_can_find_is_one_line_too(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "server.conf"
    path.write_text(text)
    result = run("-c", str(path), "-a", "127.0.0.1", *(() if "port: 9" in text else ("-p", "-1")))
    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert words in last
    assert "Traceback" not in result.stderr


def test_what_is_not_served_is_said_once_at_start() -> None:
    loaded = check(CORPUS / "good" / "leafnodes-gateway-mqtt.conf")
    told = "\n".join(loaded.config.warnings)
    assert told.count("leaf nodes not served") == 1
    assert told.count("gateways not served") == 1
