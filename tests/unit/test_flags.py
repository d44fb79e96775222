"""The flags of `shardd start`: every spelling of Go's flag package, one canonical form."""

import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardd.cli.flags import NOT_SERVED, SERVED, FlagError, Kind, normalise, usage
from shardd.cli.start import build_config, command
from shardd.config.core import Config
from shardd.errors import ConfigError

ALL_SERVED = [flag for section in SERVED.values() for flag in section]
PLAIN = [f for f in ALL_SERVED if not f.stands_for and f.names[0] not in ("help", "version")]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], []),
        (["-p", "80"], ["--port=80"]),
        (["--port=80"], ["--port=80"]),
        (["-port", "80"], ["--port=80"]),
        (["--p=-1"], ["--port=-1"]),
        (["-p", "-1"], ["--port=-1"]),
        (["-p", "0x1f90"], ["--port=8080"]),
        (["-p", "1_000"], ["--port=1000"]),
        (["-p", "0100"], ["--port=64"]),
        (["-p", "+5"], ["--port=5"]),
        (["-a", "::1"], ["--addr=::1"]),
        (["--net=[::1]"], ["--addr=[::1]"]),
        (["-n", ""], ["--name="]),
        (["--server_name=x=y"], ["--name=x=y"]),
        (["-n", "-D"], ["--name=-D"]),
        (["-P", "f", "-l", "g"], ["--pid=f", "--log=g"]),
        (["-D"], ["--debug=true"]),
        (["-D=T"], ["--debug=true"]),
        (["--debug=false"], ["--debug=false"]),
        (["-T=0"], ["--logtime=false"]),
        (["-V"], ["--trace=true"]),
        (["-VV"], ["--trace=true"]),
        (["-DV"], ["--debug=true", "--trace=true"]),
        (["-DVV"], ["--debug=true", "--trace=true"]),
        (["-DV=false"], []),
        (["--set", "a=b", "--set=c=d"], ["--set=a=b", "--set=c=d"]),
        (["-p", "1", "-p", "2"], ["--port=1", "--port=2"]),
        (["-p", "1", "--"], ["--port=1"]),
        (["-js=false", "--js=0"], []),
        (["-h=false"], []),
        (["-v"], ["--version"]),
        (["-v", "stray"], ["--version"]),
        (["-h", "-v"], ["--version"]),
        (["-p", "1", "help"], ["--help"]),
        (["Version"], ["--version"]),
        (["-c", "x", "-h"], ["--help"]),
    ],
)
def test_a_command_line_has_one_canonical_form(argv, words):
    assert normalise(argv) == words


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-nope"], "flag provided but not defined: -nope"),
        (["--PORT", "1"], "flag provided but not defined: -PORT"),
        (["-v", "-zzz"], "flag provided but not defined: -zzz"),
        (["-p"], "flag needs an argument: -p"),
        (["-p", "abc"], 'invalid value "abc" for flag -p: parse error'),
        (["-p", ""], 'invalid value "" for flag -p: parse error'),
        (["-p", "08"], 'invalid value "08" for flag -p: parse error'),
        (["-p", "1__0"], 'invalid value "1__0" for flag -p: parse error'),
        (["-p", " 1"], 'invalid value " 1" for flag -p: parse error'),
        (["-p", str(2**63)], f'invalid value "{2**63}" for flag -p: value out of range'),
        (["-D=maybe"], 'invalid boolean value "maybe" for -D: parse error'),
        (["-D="], 'invalid boolean value "" for -D: parse error'),
        (["---D"], "bad flag syntax: ---D"),
        (["-=x"], "bad flag syntax: -=x"),
    ],
)
def test_a_flag_that_cannot_be_read_is_named_as_go_does(argv, message):
    with pytest.raises(FlagError) as caught:
        normalise(argv)

    assert str(caught.value) == message


@pytest.mark.parametrize("argv", [["stray", "-h"], ["-D", "stray"], ["-p", "1", "--", "stray"]])
def test_a_word_that_is_no_flag_is_refused(argv):
    with pytest.raises(ConfigError, match=r'^unrecognized command: "stray"$'):
        normalise(argv)


def test_parsing_stops_at_a_lone_dash():
    with pytest.raises(ConfigError, match=r'^unrecognized command: "-"$'):
        normalise(["-p", "1", "-", "-D"])


@pytest.mark.parametrize("flag", NOT_SERVED, ids=lambda flag: flag.names[-1])
def test_a_flag_of_nats_server_that_is_not_served_is_one_warning(flag):
    value = {Kind.BOOLEAN: "true", Kind.INTEGER: "1", Kind.TEXT: "x"}[flag.kind]
    off = {Kind.BOOLEAN: ["false"], Kind.INTEGER: ["0"], Kind.TEXT: []}[flag.kind]
    for name in flag.names:
        words = normalise([f"--{name}={value}", "-p", "5"])
        assert words == [f"--not_served=--{name} ({flag.text})", "--port=5"]
        assert all(normalise([f"--{name}={each}"]) == [] for each in off)
    config = build_config({"not_served": ("-m (monitoring)", "-js (JetStream)")})
    assert config.warnings == (
        "-m (monitoring) is not served by this version of shardd",
        "-js (JetStream) is not served by this version of shardd",
    )


def spell(draw, flag, value):
    """One of the ways to write a flag."""
    dashed = draw(st.sampled_from(["-", "--"])) + draw(st.sampled_from(flag.names))
    if flag.kind is Kind.BOOLEAN:
        if value == "true" and draw(st.booleans()):
            return [dashed]
        return [f"{dashed}={value}"]
    return draw(st.sampled_from([[f"{dashed}={value}"], [dashed, value]]))


@st.composite
def command_lines(draw):
    """A list of flags with values, and two spellings of it."""
    one, other = [], []
    for flag in draw(st.lists(st.sampled_from(PLAIN), max_size=6)):
        value = {
            Kind.BOOLEAN: st.sampled_from(["true", "false"]),
            Kind.INTEGER: st.integers(-(2**63), 2**63 - 1).map(str),
            Kind.TEXT: st.text(),
        }[flag.kind]
        text = draw(value)
        one += spell(draw, flag, text)
        other += spell(draw, flag, text)
    return one, other


@given(command_lines())
@settings(deadline=None, max_examples=200)
def test_every_spelling_has_the_same_canonical_form(lines):
    one, other = lines

    assert normalise(one) == normalise(other)


@given(command_lines())
@settings(deadline=None, max_examples=100)
def test_the_canonical_form_is_its_own(lines):
    words = normalise(lines[0])

    assert normalise(words) == words
    assert all(re.match(r"--[a-z_]+=", word) for word in words)


@given(st.lists(st.text() | st.sampled_from(["-D", "-p", "--set", "-js", "-", "--", "=", "-v"])))
@settings(deadline=None, max_examples=200)
def test_any_words_are_read_or_refused(argv):
    with contextlib.suppress(FlagError, ConfigError):
        assert all(word.startswith("--") for word in normalise(argv))


def test_the_usage_names_every_flag_that_is_served():
    text = usage()

    for flag in ALL_SERVED:
        for name in flag.names:
            assert re.search(rf"[ ]--?{name}\b", text), name
    assert max(map(len, text.splitlines())) <= 100


# --- from flags to a configuration -----------------------------------------------------------


def configure(*argv):
    """The configuration that `shardd start` would run with."""
    context = command.make_context("start", list(argv))
    return build_config(context.params)


def test_no_flags_give_the_default_configuration():
    assert configure() == Config()


def test_each_flag_sets_its_field():
    assert configure(
        *("-a", "[::1]", "-p", "-1", "-n", "x", "--workers", "3", "--pin", "-DV", "-P", "p"),
        *("-l", "g", "-T=false", "--logtime_utc", "--ports_file_dir", "d"),
        *("--client_advertise", "me:1", "--set", "max_payload=1kb", "--set", "ring_size=64kb"),
    ) == Config(
        host="::1",
        port=-1,
        server_name="x",
        workers=3,
        pin=True,
        debug=True,
        trace=True,
        pid_file="p",
        log_file="g",
        logtime=False,
        logtime_utc=True,
        ports_file_dir="d",
        client_advertise="me:1",
        max_payload=1024,
        ring_bytes=65536,
    )


def test_a_flag_wins_over_a_setting():
    assert configure("-p", "1", "--set", "port=2", "--set", "debug=true", "-D=false") == Config(
        port=1
    )


def test_of_two_settings_the_last_one_wins():
    assert configure("--set", "port=2", "--set", "port=3").port == 3


def test_a_configuration_that_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"^port: 70000"):
        configure("-p", "70000")


def test_a_setting_without_a_value_is_refused():
    with pytest.raises(ConfigError, match=r'^--set takes KEY=VALUE, not "port"$'):
        configure("--set", "port")
