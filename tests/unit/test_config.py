"""The configuration: how values are read, what is in force, what is refused."""

import contextlib
import dataclasses
import os
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardd import limits
from shardd.config.core import PORT_ANY, Config
from shardd.config.load import load_setting, load_text
from shardd.config.model import PolicyKind, QueuePolicy
from shardd.errors import ConfigError
from shardd.values import parse_boolean, parse_duration, parse_size, split_host_port

# --- values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("4096", 4096),
        ("-1", -1),
        ("1k", 1000),
        ("1K", 1000),
        ("1kb", 1024),
        ("1KB", 1024),
        ("1ki", 1024),
        ("1KiB", 1024),
        ("64mb", 64 << 20),
        ("1m", 1_000_000),
        ("1MIB", 1 << 20),
        ("2g", 2_000_000_000),
        ("2gb", 2 << 30),
        ("1t", 10**12),
        ("-1k", -1000),
    ],
)
def test_sizes_are_read_with_the_units_of_nats_server(text, value):
    assert parse_size(text) == value


@pytest.mark.parametrize(
    "text", ["", " 1", "1 kb", "+5", "0x10", "1_000", "1.5", "1.5mb", "1e3", "kb", "9" * 5000]
)
def test_what_is_no_size_is_refused(text):
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


def test_a_size_beyond_64_bits_is_refused():
    with pytest.raises(ValueError, match="too large"):
        parse_size("9999999e")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0),
        ("5", 5),
        ("0.5", 0.5),
        ("250ms", 0.25),
        ("2m", 120),
        ("1h2m", 3720),
        ("5m2h", 7500),
        ("1s1s", 2),
        ("1.5h", 5400),
        (".5s", 0.5),
        ("1.s", 1),
        ("-1s", -1),
        ("+1s", 1),
        ("-1h2m", -3720),
        ("1us", 1e-6),
        ("1\u00b5s", 1e-6),
        ("1\u03bcs", 1e-6),
        ("1ns", 1e-9),
        ("2562047h", 2562047 * 3600),
    ],
)
def test_durations_are_read_with_the_units_of_go(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["", " 1s", "1h 2m", "1d", "1S", "1M", "s", "1..5s", "1s1", ".", "abc", "nan", "inf"]
)
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["2562048h", "9" * 400, "9" * 400 + "s"])
def test_a_duration_beyond_64_bits_of_nanoseconds_is_refused(text):
    with pytest.raises(ValueError, match="too long"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["true", "TRUE", "Yes", "on"])
def test_three_words_mean_true_in_any_case(text):
    assert parse_boolean(text) is True


@pytest.mark.parametrize("text", ["false", "No", "OFF"])
def test_three_words_mean_false_in_any_case(text):
    assert parse_boolean(text) is False


@pytest.mark.parametrize("text", ["", "1", "0", "t", "maybe"])
def test_other_words_are_no_boolean(text):
    with pytest.raises(ValueError, match="is not a boolean"):
        parse_boolean(text)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("me.example", ("me.example", 4222)),
        ("me.example:99", ("me.example", 99)),
        ("me.example:0", ("me.example", 4222)),
        ("me.example:-1", ("me.example", 4222)),
        ("[::1]:77", ("::1", 77)),
        ("[::1]", ("::1", 4222)),
        ("::1", ("::1", 4222)),
    ],
)
def test_addresses_are_split_into_host_and_port(text, address):
    assert split_host_port(text, 4222) == address


@pytest.mark.parametrize("text", ["x:", "x:y", "x:99999", "[::1", "[::1]x", "[::1]:", "x:-2"])
def test_an_address_with_a_bad_port_or_bracket_is_refused(text):
    with pytest.raises(ValueError, match=r"is not an address|has no valid port"):
        split_host_port(text, 4222)


# --- what is in force ------------------------------------------------------------------------


def test_the_default_configuration_is_valid_and_has_the_defaults_of_nats_server():
    config = Config()

    config.validate()
    assert (config.host, config.port) == ("0.0.0.0", 4222)
    assert config.max_payload == 1 << 20
    assert config.max_pending == 64 << 20
    assert config.max_control_line == 4096
    assert config.max_connections == 65536
    assert (config.ping_interval_s, config.ping_max) == (120, 2)
    assert config.write_deadline_s == 10
    assert config.auth_timeout_s == 2


@pytest.mark.parametrize(
    "field",
    [
        "port",
        "max_payload",
        "max_pending",
        "max_control_line",
        "ping_interval_s",
        "ping_max",
        "write_deadline_s",
        "auth_timeout_s",
    ],
)
def test_zero_means_the_default_where_nats_server_takes_it_so(field):
    zero: dict[str, Any] = {field: 0}

    assert Config(**zero) == Config()


def test_zero_connections_is_no_default_and_refuses_everybody():
    assert Config(max_connections=0).max_connections == 0


@pytest.mark.parametrize(
    "field", ["host", "server_name", "client_advertise", "log_file", "pid_file", "ports_file_dir"]
)
def test_an_empty_text_means_the_default(field):
    empty: dict[str, Any] = {field: ""}

    assert Config(**empty) == Config()


def test_negative_limits_mean_no_limit_and_are_kept_in_one_form():
    config = Config(max_payload=-5, max_subscriptions=-3)

    assert (config.max_payload, config.max_subscriptions) == (-1, 0)
    config.validate()


def test_brackets_around_an_ipv6_host_are_dropped():
    assert Config(host="[::1]").host == "::1"


def test_there_is_one_worker_per_usable_core_by_default():
    assert Config().worker_count == min(len(os.sched_getaffinity(0)), limits.WORKERS_MAX)
    assert Config(workers=3).worker_count == 3


def test_info_shows_the_advertised_address_if_there_is_one():
    assert Config().advertised("0.0.0.0", 5) == ("0.0.0.0", 5)
    assert Config(client_advertise="me").advertised("0.0.0.0", 5) == ("me", 5)
    assert Config(client_advertise="[::1]:9").advertised("0.0.0.0", 5) == ("::1", 9)


# --- settings by name ------------------------------------------------------------------------


def with_setting(key, value):
    """What `--set KEY=VALUE` makes."""
    return Config(**load_setting(key, value))


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("host", "::1", "host", "::1"),
        ("net", "[::1]", "host", "::1"),
        ("port", "-1", "port", -1),
        ("port", "0", "port", 4222),
        ("listen", "5000", "port", 5000),
        ("server_name", "a", "server_name", "a"),
        ("client_advertise", "a:1", "client_advertise", "a:1"),
        ("debug", "yes", "debug", True),
        ("trace", "on", "trace", True),
        ("trace_verbose", "true", "trace", True),
        ("trace_verbose", "false", "trace", False),
        ("logtime", "false", "logtime", False),
        ("logtime_utc", "true", "logtime_utc", True),
        ("log_file", "f", "log_file", "f"),
        ("logfile", "f", "log_file", "f"),
        ("pid_file", "f", "pid_file", "f"),
        ("pidfile", "f", "pid_file", "f"),
        ("ports_file_dir", "d", "ports_file_dir", "d"),
        ("max_connections", "0", "max_connections", 0),
        ("max_conn", "10", "max_connections", 10),
        ("max_payload", "1kb", "max_payload", 1024),
        ("MAX_Payload", "1k", "max_payload", 1000),
        ("max_pending", "1mb", "max_pending", 1 << 20),
        ("max_control_line", "8kb", "max_control_line", 8192),
        ("max_subscriptions", "5", "max_subscriptions", 5),
        ("max_subs", "6", "max_subscriptions", 6),
        ("max_subscription_tokens", "7", "max_subscription_tokens", 7),
        ("max_sub_tokens", "8", "max_subscription_tokens", 8),
        ("ping_interval", "1h2m", "ping_interval_s", 3720),
        ("ping_interval", "30", "ping_interval_s", 30),
        ("ping_max", "3", "ping_max", 3),
        ("write_deadline", "250ms", "write_deadline_s", 0.25),
        ("authorization.timeout", "0.5", "auth_timeout_s", 0.5),
        ("no_header_support", "true", "no_header_support", True),
        ("no_fast_producer_stall", "true", "no_fast_producer_stall", True),
        ("workers", "3", "workers", 3),
        ("workers", "auto", "workers", None),
        ("pin", "true", "pin", True),
        ("ring_size", "128kb", "ring_bytes", 131072),
        ("heartbeat_silence", "750ms", "heartbeat_silence_s", 0.75),
    ],
)
def test_a_setting_is_read_under_its_name(key, value, field, expected):
    changed = with_setting(key, value)

    assert getattr(changed, field) == expected
    rest = dataclasses.replace(changed, **{field: getattr(Config(), field)}, warnings=())
    assert rest == Config()


@pytest.mark.parametrize(
    ("value", "host", "port"),
    [("127.0.0.1:-1", "127.0.0.1", -1), ("[::1]:5", "::1", 5), (":6", "0.0.0.0", 6)],
)
def test_listen_takes_host_and_port(value, host, port):
    config = with_setting("listen", value)

    assert (config.host, config.port) == (host, port)


@pytest.mark.parametrize(("key", "name"), [("bogus", "bogus"), ("tls.bogus", "bogus")])
def test_an_unknown_setting_is_named(key, name):
    with pytest.raises(ConfigError, match=f'unknown field "{name}"'):
        with_setting(key, "1")


def test_a_setting_that_is_no_name_is_refused():
    with pytest.raises(ConfigError, match="unknown setting"):
        with_setting("port: 1\nhost", "x")


@pytest.mark.parametrize("key", ["max_payload", "ping_interval", "debug", "port", "workers"])
def test_a_value_that_cannot_be_read_names_its_key(key):
    with pytest.raises(ConfigError, match=key):
        with_setting(key, "zz")


@given(
    key=st.sampled_from(["listen", "port", "ping_max", "write_deadline", "pin"]) | st.text(),
    value=st.text(),
)
@settings(deadline=None, max_examples=200)
def test_any_text_is_read_or_refused_as_a_configuration_error(key, value):
    with contextlib.suppress(ConfigError):
        with_setting(key, value).validate()


# --- what is refused -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"port": 65536}, "port: 65536 is not between"),
        ({"port": -2}, "port: -2 is not between"),
        ({"workers": 0}, "workers: 0 is not between 1 and 60"),
        ({"workers": 61}, "workers: 61 is not"),
        ({"ring_bytes": 65537}, "ring_size: 65537 is not a power of two"),
        ({"ring_bytes": 32768}, "ring_size: 32768 is not between"),
        ({"ring_bytes": 1 << 31}, "ring_size: "),
        ({"max_payload": 1001, "max_pending": 1000}, r"max_payload \(1001\) cannot be higher than"),
        ({"max_payload": 1 << 31, "max_pending": 1 << 33}, "max_payload: "),
        ({"max_pending": -1}, "max_pending: "),
        ({"max_control_line": -1}, "max_control_line: "),
        ({"max_control_line": 1 << 31}, "max_control_line: "),
        ({"max_subscription_tokens": -1}, "max_subscription_tokens: "),
        ({"max_subscription_tokens": 256}, "max_subscription_tokens: "),
        ({"ping_max": -1}, "ping_max: "),
        ({"ping_interval_s": -1.0}, "ping_interval: must be positive"),
        ({"ping_interval_s": float("nan")}, "ping_interval: must be positive"),
        ({"write_deadline_s": -1.0}, "write_deadline: must be positive"),
        ({"auth_timeout_s": -1.0}, "auth_timeout: must be positive"),
        ({"heartbeat_silence_s": 0.1}, "heartbeat_silence: must be at least"),
        ({"server_name": "a b"}, "server_name: cannot contain spaces"),
        ({"server_name": "a\nb"}, "server_name: cannot contain"),
        ({"server_name": "\udc80"}, "server_name: cannot contain"),
        ({"host": "a b"}, "host: cannot contain"),
        ({"client_advertise": "a:"}, "client_advertise: "),
        ({"client_advertise": ":5"}, "client_advertise: .* names no host"),
        ({"log_file": "a\0b"}, "log_file: "),
    ],
)
def test_what_cannot_be_is_refused_with_one_line_that_names_it(fields, message):
    with pytest.raises(ConfigError, match=f"^{message}") as caught:
        Config(**fields).validate()

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"port": PORT_ANY},
        {"port": 65535},
        {"workers": 1},
        {"workers": 60},
        {"ring_bytes": 65536},
        {"max_payload": -1},
        {"max_payload": 1000, "max_pending": 1000},
        {"server_name": "\u00e9<&>"},
        {"heartbeat_silence_s": 0.5},
    ],
)
def test_the_edges_of_what_can_be_are_accepted(fields):
    Config(**fields).validate()


def test_a_configuration_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().port = 1  # type: ignore[misc]


# --- queue policies --------------------------------------------------------------------------


def policies_of(text: str) -> Config:
    return load_text(f"accounts {{ A {{ }} }}\nshardd {{ queue_policies: {text} }}", "f", {}).config


def test_queue_policies_are_read_in_their_order() -> None:
    text = """[
      { subject: "orders.>", group: "workers", policy: sticky, header: "Customer-Id" }
      { subject: "a.*", policy: Local, account: A } ]"""
    config = policies_of(text)
    config.validate()
    assert config.queue_policies == (
        QueuePolicy(
            subject="orders.>", group="workers", policy=PolicyKind.STICKY, header="Customer-Id"
        ),
        QueuePolicy(subject="a.*", policy=PolicyKind.LOCAL, account="A"),
    )
    assert load_setting("queue_policies", '[{subject: "a", policy: round_robin}]') == {
        "queue_policies": (QueuePolicy(subject="a", policy=PolicyKind.ROUND_ROBIN),)
    }


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("sticky", "f:2:10: queue_policies has to be a list, not a string"),
        ("[sticky]", "f:2:27: queue_policies has to be a list of blocks, not a string"),
        ("[{policy: sticky}]", "queue_policies: an entry needs a subject"),
        ("[{subject: a}]", "queue_policies: an entry needs a policy"),
        ("[{subject: a..b, policy: local}]", 'subject "a..b" is not a valid subject'),
        ("[{subject: a, group: 'b..', policy: local}]", 'group "b.." is not a valid pattern'),
        ("[{subject: a, policy: fair}]", 'policy "fair" is not one of random, round_robin, local'),
        ("[{subject: a, policy: local, header: K}]", 'header is the key of the policy "sticky"'),
        ("[{subject: a, policy: sticky, header: 'K:'}]", 'header "K:" is not the name of a header'),
        ("[{subject: a, policy: local, who: b}]", 'unknown field "who"'),
        ("[{subject: a, policy: local, account: B}]", 'queue_policies: there is no account "B"'),
    ],
)
def test_a_queue_policy_that_cannot_be_is_refused_where_it_stands(text: str, error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policies_of(text).validate()
    assert str(caught.value).startswith("f:2:")
    assert error in str(caught.value)
