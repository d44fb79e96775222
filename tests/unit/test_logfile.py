"""Rotation of the log file, by one process and by many at once."""

import contextlib
import fcntl
import os
import random
import re
import signal
from pathlib import Path

import pytest

from shardd import log
from shardd.config.core import Config
from shardd.logfile import RETRY_S, LogFile

LINE = b"0123456789" * 9 + b"012345678\n"  # 100 bytes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "server.log"


def backups(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.*"))


def test_a_file_over_its_limit_becomes_a_backup_with_nats_server_s_name(path: Path) -> None:
    said: list[str] = []
    file = LogFile(str(path), 250, say=lambda text, _: said.append(text))
    for _ in range(3):
        file.write(LINE)
    file.write(b"next\n")
    file.close()

    (backup,) = backups(path)
    assert re.fullmatch(r"server\.log\.\d{4}(\.\d\d){5}\.\d{9}", backup.name)
    assert backup.read_bytes() == 3 * LINE
    assert path.read_bytes() == b"next\n"
    assert said == [f'Rotated log, backup saved as "{backup}"']
    assert path.stat().st_mode & 0o777 == 0o640


def test_what_was_in_the_file_before_counts(path: Path) -> None:
    path.write_bytes(3 * LINE)
    file = LogFile(str(path), 350)
    file.write(LINE)
    file.close()

    assert backups(path)[0].read_bytes() == 4 * LINE


@pytest.mark.parametrize(("files_max", "kept"), [(0, 5), (1, 0), (3, 2)])
def test_so_many_files_are_kept_the_current_one_included(
    path: Path, files_max: int, kept: int
) -> None:
    others = [path.with_name(name) for name in ("server.log.old", "server.log.1", "x.log")]
    for other in others:
        other.write_text("not a backup")
    said: list[str] = []
    file = LogFile(str(path), 50, files_max, lambda text, _: said.append(text))
    for number in range(5):
        file.write(b"%d" % number + LINE)
    file.close()

    left = [each for each in backups(path) if each not in others]
    assert [each.read_bytes()[:1] for each in left] == [b"%d" % n for n in range(5 - kept, 5)]
    assert all(other.exists() for other in others)
    purged = [text for text in said if text.startswith("Purged")]
    assert len(purged) == 5 - kept
    assert all(re.fullmatch(r'Purged log file "server\.log\.[\d.]+"', text) for text in purged)


def test_another_process_s_rotation_is_followed_before_the_next_line(path: Path) -> None:
    one, two = LogFile(str(path), 150), LogFile(str(path), 150)
    one.write(LINE)
    two.write(LINE)
    one.write(b"one\n")
    one.close()
    two.close()

    assert backups(path)[0].read_bytes() == 2 * LINE
    assert path.read_bytes() == b"one\n"


def test_a_process_that_is_silent_lets_go_of_a_rotated_file(path: Path) -> None:
    log.configure(Config(log_file=str(path), log_size_limit=50, log_max_num=1))
    try:
        other = LogFile(str(path), 50, 1)
        other.write(LINE)
        log.tick()
        other.close()
        held = []
        for descriptor in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # that of the listing itself
                held.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    finally:
        log.close()

    assert not [each for each in held if each.startswith(str(path)) and "deleted" in each]
    assert str(path) in held


def test_a_line_that_meets_a_deleted_backup_is_written_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = LogFile(str(path), 150, 1), LogFile(str(path), 150, 1)
    follow = one.follow

    def follow_and_be_late() -> None:
        follow()
        two.write(2 * LINE)  # rotates, and keeps no backup

    monkeypatch.setattr(one, "follow", follow_and_be_late)
    one.write(b"late\n")
    one.close()
    two.close()

    assert backups(path) == []
    assert path.read_bytes() == b"late\n"


def test_who_comes_late_to_a_rotation_does_not_rotate_the_new_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = LogFile(str(path), 150), LogFile(str(path), 150)
    follow = one.follow

    def follow_and_be_late() -> None:
        follow()
        two.write(2 * LINE)

    with monkeypatch.context() as patch:
        patch.setattr(one, "follow", follow_and_be_late)
        one.write(b"late\n")
    one.write(b"one\n")
    two.write(b"two\n")
    one.close()
    two.close()

    (backup,) = backups(path)
    assert backup.read_bytes() == 2 * LINE + b"late\n"
    assert path.read_bytes() == b"one\ntwo\n"


def test_nobody_waits_for_a_process_that_is_stopped_while_it_rotates(path: Path) -> None:
    file = LogFile(str(path), 150)
    holder = os.open(path, os.O_WRONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    for _ in range(3):
        file.write(LINE)
    assert backups(path) == []
    os.close(holder)
    file.write(LINE)
    file.close()

    assert backups(path)[0].read_bytes() == 4 * LINE


def test_a_file_that_was_moved_by_hand_is_written_to_until_it_is_reopened(path: Path) -> None:
    file = LogFile(str(path), 250)
    file.write(LINE)
    path.rename(path.with_name("moved"))
    file.write(LINE)
    file.reopen()
    file.write(b"new\n")
    file.close()

    assert path.with_name("moved").read_bytes() == 2 * LINE
    assert path.read_bytes() == b"new\n"


def test_a_rotation_that_fails_is_said_once_in_a_while_and_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    said: list[tuple[str, bool]] = []
    file = LogFile(
        str(path), 50, say=lambda text, fault: said.append((text, fault)), clock=lambda: now[0]
    )

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        file.write(LINE)
        file.write(LINE)
        assert said == [(f'Unable to rotate log file "{path}": Permission denied', True)]
        now[0] += RETRY_S
        file.write(LINE)
        assert len(said) == 2
    now[0] += RETRY_S
    file.write(LINE)
    file.close()

    assert backups(path)[0].read_bytes() == 4 * LINE


def test_a_link_is_kept_and_what_it_names_is_rotated(path: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere" / "real.log"
    target.parent.mkdir()
    path.symlink_to(target)
    file = LogFile(str(path), 50)
    file.write(LINE)
    file.close()

    assert path.is_symlink()
    assert backups(target)[0].read_bytes() == LINE


def test_a_device_is_never_moved() -> None:
    file = LogFile("/dev/null", 1)
    file.write(LINE)
    file.close()

    assert Path("/dev/null").is_char_device()


def test_no_line_of_many_processes_is_lost_torn_or_doubled_whatever_happens(path: Path) -> None:
    """Writers rotate as they go, some are stopped and continued at any instant, one reopens."""
    writers, count = 4, 400
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    children = []
    for number in range(writers):
        pid = os.fork()
        if pid == 0:
            try:
                file = LogFile(str(path), 4000)
                for line in range(count):
                    file.write(b"%d %d %s\n" % (number, line, b"x" * (line % 90)))
                    if line % 50 == number:
                        file.reopen()
            finally:
                os._exit(0)
        children.append(pid)
    for _ in range(30):
        pid = chance.choice(children)
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        for _ in range(chance.randrange(50)):
            os.sched_yield()  # the others go on meanwhile
        os.kill(pid, signal.SIGCONT)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * writers

    files = [*backups(path), path]
    text = b"".join(each.read_bytes() for each in files)
    expected = [
        b"%d %d %s" % (number, line, b"x" * (line % 90))
        for number in range(writers)
        for line in range(count)
    ]
    assert sorted(text.splitlines()) == sorted(expected)
    assert len(files) > 10
