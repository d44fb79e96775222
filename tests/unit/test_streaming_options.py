"""The streaming pool by configuration and flags: every key by every name, and what is refused."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from shardd.cli import flags
from shardd.cli.start import build_config, command
from shardd.cli.streaming import KEY_WARNING, check_key
from shardd.config.core import Config
from shardd.config.load import load_streaming_file, load_text
from shardd.config.streaming import (
    KEY_VARIABLE,
    ChannelEntry,
    ChannelLimits,
    FileOptions,
    NatsOptions,
    SqlOptions,
    StoreLimits,
    StreamingOptions,
)
from shardd.errors import ConfigError

# Each key with its aliases, a value, and what it makes.
KEYS: list[tuple[str, str, dict[str, Any]]] = [
    ("cluster_id id cid", "abc", {"cluster_id": "abc"}),
    ("discover_prefix", "_X.find", {"discover_prefix": "_X.find"}),
    ("store st store_type storetype", "Memory", {"store": "MEMORY"}),
    ("dir datastore", '"/x"', {"directory": "/x", "store": "FILE"}),
    ("hb_interval hbi server_to_client_hb_interval", '"2s"', {"heartbeat_interval_s": 2.0}),
    ("hb_timeout hbt server_to_client_hb_timeout", '"500ms"', {"heartbeat_timeout_s": 0.5}),
    ("hb_fail_count hbf server_to_client_hb_fail_count", "3", {"heartbeat_fail_count": 3}),
    (
        "replace_durable replace_durables replace_duplicate_durable replace_duplicate_durables",
        "true",
        {"replace_durable": True},
    ),
    ("encrypt", "true", {"encrypt": True}),
    ("encryption_cipher", "chacha", {"encryption_cipher": "CHACHA"}),
    ("encryption_key", "k", {"encrypt": True, "encryption_key": "k"}),
    ("sd stan_debug", "true", {"debug": True}),
    ("sv stan_trace", "true", {"trace": True}),
    ("workers", "4", {"workers": 4}),
    ("account", '"$G"', {"account": "$G"}),
    ("redeliveries_max", "9", {"redeliveries_max": 9}),
    ("group_in_flight_max", "7", {"group_in_flight_max": 7}),
    ("strict_subjects", "true", {"strict_subjects": True}),
    ("channel_permissions", "true", {"channel_permissions": True}),
    ("admin", "true", {"admin": True}),
    ("nats_server_url ns nats_server", '"a:1, b:2"', {"nats": NatsOptions(urls=("a:1", "b:2"))}),
    ("username user", "u", {"nats": NatsOptions(user="u")}),
    ("password pass", "p", {"nats": NatsOptions(password="p")}),
    ("token", "t", {"nats": NatsOptions(token="t")}),
    ("credentials", '"f"', {"nats": NatsOptions(credentials_file="f")}),
    ("nkey_seed_file", '"f"', {"nats": NatsOptions(nkey_seed_file="f")}),
    ("secure", "true", {"nats": NatsOptions(tls_required=True)}),
    ("sql sql_options", '{driver: postgres, source: "s"}', {"sql": SqlOptions("s")}),
    ("syslog_name", "x", {}),
]
LIMIT_KEYS: list[tuple[str, str, dict[str, Any]]] = [
    ("max_subs msu max_subscriptions maxsubscriptions", "5", {"max_subs": 5}),
    ("max_msgs mm maxmsgs max_count maxcount", "5", {"max_msgs": 5}),
    ("max_bytes mb maxbytes", "64MB", {"max_bytes": 67_108_864}),
    ("max_age ma maxage", '"1h"', {"max_age_s": 3600.0}),
    ("max_inactivity mi maxinactivity", '"24h"', {"max_inactivity_s": 86_400.0}),
]
FILE_KEYS: list[tuple[str, str, dict[str, Any]]] = [
    ("sync_on_flush sync do_sync", "false", {"sync": False}),
    ("auto_sync file_auto_sync", '"1s"', {"auto_sync_s": 1.0}),
    ("crc do_crc", "false", {"crc": False}),
    ("slice_max_msgs slice_max_count slice_msgs slice_count", "9", {"segment_messages": 9}),
    ("slice_max_bytes slice_max_size slice_bytes slice_size", "1MB", {"segment_bytes": 1_048_576}),
    (
        "slice_max_age slice_age slice_max_time slice_time_limit",
        '"24h"',
        {"segment_age_s": 86_400.0},
    ),
    ("file_descriptors_limit fds_limit", "100", {"descriptors_max": 100}),
    ("repair", "false", {"repair": False}),
    ("buffer_size", "2MB", {}),
    ("compact compact_enabled", "true", {}),
]


def read(text: str) -> StreamingOptions:
    """The options of a `streaming` block."""
    options = load_text(f"streaming {{ {text} }}", "f.conf", {}).config.streaming
    assert options is not None
    return options


def flagged(*words: str) -> StreamingOptions | None:
    """The options that a command line makes."""
    given = command.make_context("start", list(words)).params
    return build_config(given).streaming


def spread(keys: list[tuple[str, str, dict[str, Any]]]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(name, value, made) for names, value, made in keys for name in names.split()]


@pytest.mark.parametrize(("name", "value", "made"), spread(KEYS))
def test_a_key_has_all_names_of_the_original(name: str, value: str, made: dict[str, Any]) -> None:
    assert read(f"{name}: {value}") == StreamingOptions(**made)
    assert read(f"{name.upper()}: {value}") == StreamingOptions(**made)


@pytest.mark.parametrize("block", ["store_limits", "limits", "storelimits"])
@pytest.mark.parametrize(("name", "value", "made"), spread(LIMIT_KEYS))
def test_limits_hold_for_all_channels_or_for_some(
    block: str, name: str, value: str, made: dict[str, Any]
) -> None:
    assert read(f"{block} {{ {name}: {value} }}").limits == StoreLimits(
        defaults=ChannelLimits(**made)
    )
    options = read(f'{block} {{ channels {{ "a.>" {{ {name}: {value} }} }} }}')
    assert options.limits.channels == (ChannelEntry("a.>", **made),)


def test_a_channel_inherits_what_it_does_not_name_and_has_no_limit_where_it_says_zero() -> None:
    limits = read(
        "store_limits { mc: 0, per_channel { foo { mm: 0, mb: -1 }, bar {} , baz { msu: 3 } } }"
    ).limits
    assert limits.max_channels == 0
    assert limits.channels == (
        ChannelEntry("foo", max_msgs=0, max_bytes=0),
        ChannelEntry("bar"),
        ChannelEntry("baz", max_subs=3),
    )


@pytest.mark.parametrize("block", ["file", "file_options"])
@pytest.mark.parametrize(("name", "value", "made"), spread(FILE_KEYS))
def test_file_options(block: str, name: str, value: str, made: dict[str, Any]) -> None:
    assert read(f"{block} {{ {name}: {value} }}").file == FileOptions(**made)


def test_the_way_to_nats_through_tls() -> None:
    nats = read(
        "tls { client_cert: c, client_key: k, client_ca: a, server_name: s, insecure: true }"
    ).nats
    assert nats == NatsOptions(
        tls_cert="c",
        tls_key="k",
        tls_ca="a",
        tls_server_name="s",
        tls_insecure=True,
        tls_required=True,
    )


def test_no_secret_is_printed() -> None:
    options = read(
        'password: hush, token: hush, encryption_key: hush, sql { source: "postgres://u:hush@h/d" }'
    )
    assert "hush" not in repr(options)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cid: 5", 'parameter "cid" value is expected to be string, got int64'),
        ("hb_fail_count: x", 'parameter "hb_fail_count" value is expected to be int64, got string'),
        ("sd: 1", 'parameter "sd" value is expected to be bool, got int64'),
        ("file: x", 'parameter "file" value is expected to be map, got string'),
        ("store: disk", "unsupported store type: DISK"),
        ("sql { driver: mysql }", 'sql driver "mysql": this version of shardd serves postgres'),
        ("cluster {}", "cluster: this version of shardd does not serve clustering"),
        ("encrypt: 1", 'parameter "encrypt" value is expected to be bool, got int64'),
        ("encryption_cipher: DES", "encryption cipher not supported"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        read(text)
    assert str(refusal.value).startswith("f.conf:1:")
    assert message in str(refusal.value)


@pytest.mark.parametrize("word", ["--clustered", "-cluster_peers=a,b"])
def test_flags_for_what_would_be_missed_are_refused_as_in_a_file(word: str) -> None:
    with pytest.raises(ConfigError, match="this version of shardd does not serve") as refusal:
        flags.normalise([word])
    assert str(refusal.value).startswith("--")
    assert flags.normalise(["--clustered=false"]) == []


def test_an_unknown_key_is_passed_over_and_told() -> None:
    loaded = load_text("streaming { cid: x, colour: blue }", "f.conf", {})
    assert loaded.config.streaming == StreamingOptions(cluster_id="x")
    assert loaded.config.warnings == ('f.conf:1: streaming: unknown field "colour"',)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("store: FILE", "for FILE stores, root directory must be specified"),
        ("store: SQL", "for SQL stores, a source must be specified"),
        ("store_limits { mc: -1 }", "max channels limit cannot be negative (-1)"),
        ("store_limits { mm: -1 }", "max messages limit cannot be negative (-1)"),
        ("store_limits { mb: -2 }", "max bytes limit cannot be negative (-2)"),
        ("store_limits { msu: -1 }", "max subscriptions limit cannot be negative (-1)"),
        ('store_limits { ma: "-1s" }', "max age limit cannot be negative (-1s)"),
        ('store_limits { channels { "a..b" {} } }', 'invalid channel name "a..b"'),
        ('store_limits { channels { "a.>.b" {} } }', 'invalid channel name "a.>.b"'),
        (
            "store_limits { mc: 1, channels { a {}, b {}, c.* {} } }",
            "too many channels defined (2). The max channels limit is set to 1",
        ),
        ("partitioning: true", "stan: no configured channel"),
        ("ft_group: g", "ft: only FILE or SQL stores supported in FT mode"),
        ('ft_group: "a b"', 'streaming ft_group: "a b" cannot be part of a subject'),
        ("workers: 17", "streaming workers: 17 is not between 1 and 16"),
        ("workers: 0", "streaming workers: 0 is not between 1 and 16"),
        ("account: none", 'streaming account: there is no account "none"'),
        ('cid: "a b"', 'streaming cluster_id: "a b" cannot be part of a subject'),
        ('cid: ""', 'streaming cluster_id: "" cannot be part of a subject'),
        ("dead_letter_channel: a", "streaming dead_letter_channel: needs redeliveries_max"),
        ('hb_interval: "0s"', "streaming hb_interval: must be positive"),
    ],
)
def test_what_cannot_be_together_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        load_text(f"streaming {{ {text} }}", "f.conf", {}).config.validate()
    assert str(refusal.value) == message


def test_a_host_has_room_for_so_many_processes() -> None:
    with pytest.raises(ConfigError, match="at most 64 processes"):
        Config(workers=60, streaming=StreamingOptions(workers=5)).validate()
    Config(workers=60, streaming=StreamingOptions(workers=4)).validate()


# --- flags ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (["--streaming", "2"], {"workers": 2}),
        (["-cid", "x"], {"cluster_id": "x"}),
        (["--cluster_id=x"], {"cluster_id": "x"}),
        (["-st", "file", "--dir=/d"], {"store": "FILE", "directory": "/d"}),
        (["-dir", "/d"], {"store": "FILE", "directory": "/d"}),
        (["-dir", "/d", "-store", "memory"], {"store": "MEMORY", "directory": "/d"}),
        (["-hbi", "1s", "-hbt=2s", "-hbf", "3"], None),
        (["-SD"], {"debug": True}),
        (["-SV"], {"trace": True}),
        (["-SDV"], {"debug": True, "trace": True}),
        (["--replace_durable"], {"replace_durable": True}),
        (["-encrypt"], {"encrypt": True}),
        (["-encryption_cipher", "chacha"], {"encryption_cipher": "CHACHA"}),
        (["-encryption_key", "k"], {"encrypt": True, "encryption_key": "k"}),
        (["--file_sync=false"], {"file": FileOptions(sync=False)}),
        (["--file_slice_max_bytes", "1MB"], {"file": FileOptions(segment_bytes=1_048_576)}),
        (["--file_buffer_size=0"], {}),
        (["-ns", "nats://a:1"], {"nats": NatsOptions(urls=("nats://a:1",))}),
        (["-mc", "7"], {"limits": StoreLimits(max_channels=7)}),
        (["-msu=3"], {"limits": StoreLimits(defaults=ChannelLimits(max_subs=3))}),
        (["-mm=3"], {"limits": StoreLimits(defaults=ChannelLimits(max_msgs=3))}),
        (["-mb=1MB"], {"limits": StoreLimits(defaults=ChannelLimits(max_bytes=1_048_576))}),
        (["-ma=1h"], {"limits": StoreLimits(defaults=ChannelLimits(max_age_s=3600.0))}),
        (["-mi=1h"], {"limits": StoreLimits(defaults=ChannelLimits(max_inactivity_s=3600.0))}),
    ],
)
def test_any_flag_of_the_original_turns_streaming_on(
    words: list[str], made: dict[str, Any] | None
) -> None:
    if made is None:
        made = {
            "heartbeat_interval_s": 1.0,
            "heartbeat_timeout_s": 2.0,
            "heartbeat_fail_count": 3,
        }
    assert flagged(*words) == StreamingOptions(**made)


def test_without_a_flag_and_a_block_there_is_no_streaming() -> None:
    assert flagged("-p", "4333", "-D") is None


def test_every_streaming_flag_is_one_that_is_read() -> None:
    """A flag in the table that nothing reads would be worse than none."""
    values = {
        flags.Kind.BOOLEAN: "=true",
        flags.Kind.INTEGER: "=5",
        flags.Kind.SIZE: "=5",
        flags.Kind.DURATION: "=5s",
        flags.Kind.TEXT: "=postgres",
    }
    for flag in flags.SERVED["Streaming Server Options"]:
        name = flag.names[0]
        if name in ("store", "stan_config", "dir") or flag.stands_for:
            continue
        word = f"--{name}{'=false' if 'default: true' in flag.text else values[flag.kind]}"
        if name == "encryption_cipher":
            word = f"--{name}=aes"
        if name == "sql_driver":
            assert flagged(word) == StreamingOptions()
        elif name == "ft_group":
            assert flagged(word, "--dir=/d") == StreamingOptions(
                ft_group="postgres", store="FILE", directory="/d"
            )
        else:
            assert flagged(word) != StreamingOptions(), word


def test_a_key_given_by_a_flag_is_warned_of_and_never_shown() -> None:
    config = build_config(command.make_context("start", ["-encryption_key", "hush"]).params)
    assert config.warnings == (KEY_WARNING,)
    assert "hush" not in repr(config)
    with pytest.raises(ConfigError, match="encryption cipher not supported"):
        flagged("--encryption_cipher=des")


def test_encryption_needs_a_key_from_somewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    check_key(None)
    check_key(StreamingOptions())
    check_key(StreamingOptions(encrypt=True, encryption_key="k"))
    with pytest.raises(ConfigError, match="encryption key required"):
        check_key(StreamingOptions(encrypt=True))
    monkeypatch.setenv(KEY_VARIABLE, "k")
    check_key(StreamingOptions(encrypt=True))


def test_flags_hold_over_the_file_and_leave_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "f.conf"
    file.write_text('streaming { cid: x, dir: "/d", hbi: "1s", store_limits { mm: 5, mb: 9 } }')
    options = flagged("-c", str(file), "-cid", "y", "-mb", "7")
    assert options == StreamingOptions(
        cluster_id="y",
        store="FILE",
        directory="/d",
        heartbeat_interval_s=1.0,
        limits=StoreLimits(defaults=ChannelLimits(max_msgs=5, max_bytes=7)),
    )
    assert flagged("-c", str(file), "--streaming=0") is None


def test_a_file_of_streamings_own_has_its_keys_at_the_top_or_in_the_block(tmp_path: Path) -> None:
    plain, block = tmp_path / "plain.conf", tmp_path / "block.conf"
    other = tmp_path / "other.conf"
    other.write_text("port: 6222")
    plain.write_text('id: "x"\nstore: "memory"\n')
    block.write_text('port: 5222\nstreaming { id: "y" }\n')
    assert load_streaming_file(str(plain))[0].cluster_id == "x"
    assert load_streaming_file(str(block)) == (StreamingOptions(cluster_id="y"), ())
    options = flagged("-sc", str(plain), "-hbf", "1")
    assert options == StreamingOptions(cluster_id="x", heartbeat_fail_count=1)
    # The only file with a block is the server's as well.
    given = command.make_context("start", ["-sc", str(block)]).params
    config = build_config(given)
    assert (config.port, config.streaming) == (5222, StreamingOptions(cluster_id="y"))
    given = command.make_context("start", ["-sc", str(block), "-c", str(other)]).params
    config = build_config(given)
    assert (config.port, config.streaming) == (6222, StreamingOptions(cluster_id="y"))
    with pytest.raises(ConfigError, match="error opening config file"):
        flagged("-sc", str(tmp_path / "missing"))


def test_settings_of_streaming_among_those_of_a_server_are_refused_with_what_to_do() -> None:
    for text in ("cluster_id: x", "store: FILE", "store_limits { mc: 5 }", "ft_group: a"):
        with pytest.raises(
            ConfigError, match=r'^f:2:1: "\w+" is a setting of streaming: put those'
        ):
            load_text(f"port: 4222\n{text}\n", "f", {})
    # A server's own settings of the same name, and variables, stay what they are.
    text = "id = 7\nport: $id\npartitioning = 1\nmax_payload: $partitioning\ntls {}\ncluster {}"
    assert load_text(text, "f", {}).config.port == 7
    with pytest.raises(ConfigError, match='unknown field "workers"'):
        load_text("workers: 2", "f", {})


def test_the_users_flags_are_the_pools_when_servers_are_elsewhere() -> None:
    options = flagged("-ns", "a:1", "--user", "u", "--pass", "p")
    assert options is not None
    assert dataclasses.astuple(options.nats)[:3] == (("a:1",), "u", "p")
    options = flagged("-cid", "x", "--user", "u", "--pass", "p")
    assert options is not None
    assert options.nats == NatsOptions()
