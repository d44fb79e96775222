"""The files in conf/: each is read, and the commented one says what the defaults are."""

import dataclasses
import re
from pathlib import Path

from shardd.config.core import Config
from shardd.config.load import load_file, load_text
from shardd.config.streaming import StreamingOptions
from shardd.values import is_public_nkey

CONF = Path(__file__).resolve().parents[2] / "conf"


def test_the_commented_file_holds_the_defaults() -> None:
    loaded = load_file(str(CONF / "shardd.conf"))
    assert loaded.conversions == ()
    config = dataclasses.replace(loaded.config, config_file=None, config_digest="")
    assert config == Config()


def test_what_is_commented_out_is_valid_too() -> None:
    lines = (CONF / "shardd.conf").read_text().splitlines()
    blocks = [line.removeprefix("# ") for line in lines if line.startswith("# ")]
    text = "\n".join(line for line in blocks if not line.startswith("---"))
    start = text.index("authorization {")
    end = text.index("operator:")
    config = load_text(text[start:end], "example", {}).config
    name, nkey = (user.key for user in config.users[:2])
    assert name == "alice"
    assert is_public_nkey(nkey, "U")
    assert {account.name for account in config.accounts} == {"A", "B"}


def test_the_streaming_file_holds_the_defaults() -> None:
    loaded = load_file(str(CONF / "streaming.conf"))
    assert loaded.conversions == ()
    assert loaded.config.warnings == ()
    assert loaded.config.streaming == StreamingOptions()
    loaded.config.validate()


def test_what_is_commented_out_of_the_streaming_file_is_valid_too() -> None:
    lines = (CONF / "streaming.conf").read_text().splitlines()
    text = "\n".join(
        line.replace("# ", "", 1) if line.lstrip().startswith("# ") and is_setting(line) else line
        for line in lines
    )
    options = load_text(text, "example", {}).config.streaming
    assert options is not None
    assert options.nats.urls == ("nats://one:4222", "nats://two:4222")
    assert options.nats.tls_ca == "/etc/shardd/ca.pem"
    assert [each.pattern for each in options.limits.channels] == ["orders.>", "orders.audit"]
    assert (options.store, options.sql.source[:10]) == ("MEMORY", "postgresql")


def is_setting(line: str) -> bool:
    """Whether a comment holds a setting: a key and a value, a block's start or its end."""
    text = line.strip().removeprefix("# ").strip()
    return bool(re.fullmatch(r'"?[a-z_.>]+"?:? (\{.*|"?\S+"?|\{ .* \})|\}', text))


def test_the_file_for_postgres_is_read() -> None:
    loaded = load_file(str(CONF / "streaming-postgres.conf"))
    assert loaded.conversions == ()
    options = loaded.config.streaming
    assert options is not None
    assert (options.store, options.sql.source[:9]) == ("SQL", "postgres:")
    loaded.config.validate()


def test_the_file_for_development_is_read() -> None:
    config = load_file(str(CONF / "dev.conf")).config
    assert (config.host, config.port, config.workers) == ("127.0.0.1", 4222, 2)


def test_the_file_with_users_is_read_but_for_its_certificates() -> None:
    text = (CONF / "tls-users.conf").read_text()
    config = load_text(text[text.index("authorization") :], "example", {}).config
    assert [user.name for user in config.users] == ["admin", "app"]
    assert config.users[1].permissions is not None
    config.validate()
