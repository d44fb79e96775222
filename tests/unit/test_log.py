"""The log's lines, its file, and repeated lines."""

import json
import logging
import os
import re
import stat
import time

import pytest

from shardd import log
from shardd.config.core import Config
from shardd.errors import BootError
from shardd.log import REPEAT_S, LineHandler
from shardd.logformat import TRACE, JsonFormatter, LineFormatter

LINE = re.compile(
    r"\[(?P<pid>\d+)\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d\.\d{6} \[(?P<tag>[A-Z]{3})\] (?P<text>.*)"
)
logger = logging.getLogger("shardd.test")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log"


def lines(path):
    """Tag and text of each line; every line must have the format, and be whole."""
    text = path.read_text(encoding="utf-8")
    assert not text or text.endswith("\n")
    matches = [LINE.fullmatch(line) for line in text.splitlines()]
    assert None not in matches, text
    return [(match["tag"], match["text"]) for match in matches if match]


def record(message, level=logging.INFO, created=1_795_399_556.758015):
    made = logging.LogRecord("shardd", level, __file__, 1, message, (), None)
    made.created = created
    made.process = 42
    return made


def test_a_line_is_that_of_nats_server():
    line = LineFormatter(logtime_utc=True).format(record("Server is ready"))

    assert line == "[42] 2026/11/23 02:05:56.758015 [INF] Server is ready\n"


@pytest.mark.parametrize(
    ("level", "tag"),
    [
        (TRACE, "TRC"),
        (logging.DEBUG, "DBG"),
        (logging.INFO, "INF"),
        (logging.WARNING, "WRN"),
        (logging.ERROR, "ERR"),
        (logging.CRITICAL, "FTL"),
        (logging.INFO + 5, "INF"),
        (1, "TRC"),
    ],
)
def test_each_level_has_its_tag(level, tag):
    assert LineFormatter(logtime=False).format(record("x", level)) == f"[42] [{tag}] x\n"


@pytest.mark.parametrize(
    ("level", "tag"),
    [
        (TRACE, "\x1b[33mTRC"),
        (logging.DEBUG, "\x1b[36mDBG"),
        (logging.INFO, "\x1b[32mINF"),
        (logging.WARNING, "\x1b[0;93mWRN"),
        (logging.ERROR, "\x1b[31mERR"),
        (logging.CRITICAL, "\x1b[31mFTL"),
    ],
)
def test_colours_are_those_of_nats_server(level, tag):
    line = LineFormatter(logtime=False, colours=True).format(record("x", level))

    assert line == f"[42] [{tag}\x1b[0m] x\n"


def test_times_are_local_unless_utc_is_asked_for(monkeypatch):
    monkeypatch.setenv("TZ", "XXX+05:00")
    time.tzset()
    try:
        local = LineFormatter().format(record("x"))
        utc = LineFormatter(logtime_utc=True).format(record("x"))
    finally:
        monkeypatch.undo()
        time.tzset()

    assert (local[16:24], utc[16:24]) == ("21:05:56", "02:05:56")


def test_each_record_has_its_own_time():
    formatter = LineFormatter(logtime_utc=True)

    assert formatter.format(record("x", created=59.0))[16:31] == "00:00:59.000000"
    assert formatter.format(record("x", created=60.5))[16:31] == "00:01:00.500000"
    assert formatter.format(record("x", created=60.25))[16:31] == "00:01:00.250000"


def test_text_from_a_peer_cannot_start_a_line_or_steer_a_terminal():
    line = LineFormatter(logtime=False).format(record("a\nb\rc\x1b[2J\x7f\x85\u2028\td"))

    assert line == "[42] [INF] a\\nb\\rc\\x1b[2J\\x7f\\x85\\u2028\td\n"


def test_the_label_of_a_process_stands_before_debug_lines_only():
    formatter = LineFormatter(logtime=False, process_label="worker 1")

    assert formatter.format(record("x", logging.DEBUG)) == "[42] [DBG] worker 1: x\n"
    assert formatter.format(record("x")) == "[42] [INF] x\n"


def test_arguments_that_do_not_fit_are_logged_all_the_same():
    misfit = logging.LogRecord("shardd", logging.INFO, __file__, 1, "%d apples", ("two",), None)

    line = LineFormatter(logtime=False).format(misfit)

    assert line.startswith(f"[{os.getpid()}] [INF] '%d apples' ('two',)")


def test_a_traceback_becomes_lines_of_the_same_form(path):
    log.configure(Config(log_file=str(path)))

    try:
        raise ValueError("broken\nin two")
    except ValueError:
        logger.exception("It failed")

    logged = lines(path)
    assert logged[0] == ("ERR", "It failed")
    assert logged[1] == ("ERR", "Traceback (most recent call last):")
    assert ("ERR", "ValueError: broken") in logged


def test_the_file_is_appended_to_and_others_cannot_read_it(path):
    umask = os.umask(0)
    try:
        log.configure(Config(log_file=str(path)))
        logger.info("one")
        log.configure(Config(log_file=str(path)))
        logger.info("two")
    finally:
        os.umask(umask)

    assert lines(path) == [("INF", "one"), ("INF", "two")]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_every_record_is_one_write(path, monkeypatch):
    written = []

    def write(descriptor, data):
        written.append(data)
        return len(data)

    log.configure(Config(log_file=str(path)))
    monkeypatch.setattr(os, "write", write)

    logger.info("one")
    try:
        raise ValueError
    except ValueError:
        logger.exception("two")
    monkeypatch.undo()

    assert len(written) == 2


def test_the_rest_of_a_short_write_follows(path, monkeypatch):
    write = os.write
    log.configure(Config(log_file=str(path)))
    monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:7]))

    logger.info("a line that takes more than one write")
    monkeypatch.undo()

    assert lines(path) == [("INF", "a line that takes more than one write")]


def test_lines_of_many_processes_stay_whole(path):
    log.configure(Config(log_file=str(path)))
    children = []
    for number in range(4):
        pid = os.fork()
        if pid == 0:
            for line in range(100):
                logger.info("%s %d", str(number) * 500, line)
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4

    logged = lines(path)
    assert sorted(logged) == sorted(
        ("INF", f"{str(n) * 500} {line}") for n in range(4) for line in range(100)
    )
    pids = {int(match) for match in re.findall(r"^\[(\d+)\]", path.read_text(), re.MULTILINE)}
    assert pids == set(children)


def test_a_log_that_cannot_be_written_does_not_stop_the_server(path):
    log.configure(Config(log_file="/dev/full"))
    logger.info("lost")
    log.configure(Config(log_file=str(path)))
    logger.info("kept")

    assert lines(path) == [("INF", "kept")]


def test_text_that_is_no_unicode_is_logged_as_escapes(path):
    log.configure(Config(log_file=str(path)))

    logger.info("%s", "\udc80")

    assert lines(path) == [("INF", "\\udc80")]


@pytest.mark.parametrize(
    ("options", "tags"),
    [
        ({}, ["INF", "WRN"]),
        ({"debug": True}, ["DBG", "INF", "WRN"]),
        ({"trace": True}, ["TRC", "INF", "WRN"]),
        ({"debug": True, "trace": True}, ["TRC", "DBG", "INF", "WRN"]),
    ],
)
def test_debug_and_trace_are_switched_on_one_by_one(path, options, tags):
    log.configure(Config(log_file=str(path), **options))

    for level in (TRACE, logging.DEBUG, logging.INFO, logging.WARNING):
        logger.log(level, "x")

    assert [tag for tag, _ in lines(path)] == tags


def test_a_library_s_warning_is_logged_too(path):
    log.configure(Config(log_file=str(path)))

    logging.getLogger("asyncio").warning("a task was lost")
    logging.getLogger("asyncio").info("not this")

    assert lines(path) == [("WRN", "a task was lost")]


def test_times_can_be_left_out(path):
    log.configure(Config(log_file=str(path), logtime=False))

    logger.info("x")

    assert path.read_text() == f"[{os.getpid()}] [INF] x\n"


def test_without_a_file_lines_go_to_standard_error_without_colours_if_it_is_no_terminal(capfd):
    log.configure(Config())

    logger.info("x")

    match = LINE.fullmatch(capfd.readouterr().err.rstrip("\n"))
    assert match is not None
    assert match["text"] == "x"


def test_on_a_terminal_lines_have_colours():
    terminal, stderr = os.openpty()
    saved = os.dup(2)
    os.dup2(stderr, 2)
    try:
        log.configure(Config(logtime=False))
        logger.info("x")
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(stderr)
    try:
        assert os.read(terminal, 100).decode() == f"[{os.getpid()}] [\x1b[32mINF\x1b[0m] x\r\n"
    finally:
        os.close(terminal)


def test_a_file_that_cannot_be_opened_is_a_boot_error_and_the_log_before_goes_on(path):
    log.configure(Config(log_file=str(path)))

    with pytest.raises(BootError, match="error opening log file /nonexistent/log: No such file"):
        log.configure(Config(log_file="/nonexistent/log"))
    logger.info("still here")

    assert lines(path) == [("INF", "still here")]


def test_reopen_writes_to_the_path_again_after_a_rotation(path, tmp_path):
    log.configure(Config(log_file=str(path)))
    logger.info("before")
    path.rename(tmp_path / "old")

    logger.info("between")
    log.reopen()
    logger.info("after")

    assert lines(tmp_path / "old") == [("INF", "before"), ("INF", "between")]
    assert lines(path) == [("INF", "after")]


def test_reopen_that_fails_says_so_in_the_old_file(path, tmp_path):
    log.configure(Config(log_file=str(path)))
    path.rename(tmp_path / "old")
    path.mkdir()

    log.reopen()
    logger.info("on")

    first, second = lines(tmp_path / "old")
    assert first[0] == "ERR"
    assert first[1].startswith("Could not reopen the log: ")
    assert second == ("INF", "on")


def test_reopen_does_nothing_on_standard_error(capfd):
    log.configure(Config())

    log.reopen()
    logger.info("x")

    assert capfd.readouterr().err.endswith("[INF] x\n")


# --- repeats ---------------------------------------------------------------------------------


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def handler(clock, path):
    made = LineHandler(Config(log_file=str(path)), clock=clock)
    yield made
    made.close()


def test_a_line_that_comes_again_is_counted_and_the_count_is_told_before_the_next(handler, path):
    for _ in range(5):
        handler.handle(record("the store is away"))
    handler.handle(record("the store is back"))

    assert [text for _, text in lines(path)] == [
        "the store is away",
        "the store is away (repeated 4 more times)",
        "the store is back",
    ]


def test_a_count_is_told_in_time_and_the_line_is_printed_again(handler, clock, path):
    handler.handle(record("x"))
    handler.handle(record("x"))
    handler.tick()
    assert lines(path) == [("INF", "x")]

    clock.now += REPEAT_S
    handler.tick()
    handler.tick()
    handler.handle(record("x"))

    assert [text for _, text in lines(path)] == ["x", "x (repeated 1 more times)", "x"]


def test_a_line_that_comes_again_later_is_no_repeat(handler, clock, path):
    for _ in range(3):
        handler.handle(record("x"))
        clock.now += REPEAT_S

    assert lines(path) == [("INF", "x")] * 3


def test_lines_of_another_level_or_text_are_none(handler, path):
    for level, text in ((logging.INFO, "a"), (logging.ERROR, "a"), (logging.ERROR, "b")):
        handler.handle(record(text, level))

    assert lines(path) == [("INF", "a"), ("ERR", "a"), ("ERR", "b")]


@pytest.mark.parametrize("level", [TRACE, logging.DEBUG])
def test_a_protocol_trace_is_complete(handler, path, level):
    for _ in range(3):
        handler.handle(record("<<- [PING]", level))

    assert len(lines(path)) == 3


def test_a_count_is_told_at_the_end_by_the_process_that_counted(path):
    log.configure(Config(log_file=str(path)))
    logger.info("x")
    logger.info("x")
    pid = os.fork()
    if pid == 0:
        log.configure(Config(log_file=str(path)))
        logger.info("child")
        os._exit(0)
    os.waitpid(pid, 0)
    log.close()

    assert [text for _, text in lines(path)] == ["x", "child", "x (repeated 1 more times)"]


# --- JSON ------------------------------------------------------------------------------------


def test_a_json_line_says_when_who_and_what():
    formatter = JsonFormatter(logtime_utc=True, process_label="worker 1")

    assert json.loads(formatter.format(record("Server is ready", logging.WARNING))) == {
        "time": "2026-11-23T02:05:56.758015Z",
        "level": "warning",
        "pid": 42,
        "process": "worker 1",
        "message": "Server is ready",
    }


def test_a_json_line_about_a_connection_says_which():
    text = '[::1]:4711 - cid:12 - "v1:python:x" - closed'
    fields = json.loads(JsonFormatter().format(record(text)))

    assert (fields["cid"], fields["remote"], fields["message"]) == (12, "[::1]:4711", text)
    assert json.loads(JsonFormatter().format(record("10.0.0.1:6222 - rid:3 - x")))["rid"] == 3
    assert "cid" not in json.loads(JsonFormatter().format(record("user cid:12 - cid:12")))


def test_json_times_are_local_with_their_offset_unless_utc_is_asked_for(monkeypatch):
    monkeypatch.setenv("TZ", "XXX+05:00")
    time.tzset()
    try:
        line = JsonFormatter().format(record("x"))
    finally:
        monkeypatch.undo()
        time.tzset()

    assert json.loads(line)["time"] == "2026-11-22T21:05:56.758015-05:00"
    assert "time" not in json.loads(JsonFormatter(logtime=False).format(record("x")))


def test_text_from_a_peer_cannot_end_a_json_line_or_add_a_field():
    text = 'a"}\n{"level":"fatal"\r\x00\x1b[2J\x7f\u2028\ud800\\'
    line = JsonFormatter().format(record(text))

    assert line.endswith("}\n")
    assert re.fullmatch(r"[ -~]+", line[:-1])
    assert json.loads(line)["message"] == text.replace("\ud800", "\\ud800")
    assert json.loads(line)["level"] == "info"


def test_a_traceback_is_a_field_of_its_line(path):
    log.configure(Config(log_file=str(path), log_format="json"), "worker 0")
    try:
        raise ValueError("broken")
    except ValueError:
        logger.exception("It failed")

    (line,) = path.read_text().splitlines()
    assert json.loads(line)["message"] == "It failed"
    assert json.loads(line)["traceback"].endswith("ValueError: broken")
