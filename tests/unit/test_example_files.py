"""The files in conf/: each is read, and the commented one says what the defaults are."""

import dataclasses
from pathlib import Path

from shardd.config.core import Config
from shardd.config.load import load_file, load_text
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


def test_the_file_for_development_is_read() -> None:
    config = load_file(str(CONF / "dev.conf")).config
    assert (config.host, config.port, config.workers) == ("127.0.0.1", 4222, 2)


def test_the_file_with_users_is_read_but_for_its_certificates() -> None:
    text = (CONF / "tls-users.conf").read_text()
    config = load_text(text[text.index("authorization") :], "example", {}).config
    assert [user.name for user in config.users] == ["admin", "app"]
    assert config.users[1].permissions is not None
    config.validate()
