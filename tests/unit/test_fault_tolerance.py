"""One server of a fault-tolerance group: when it tries the lock, beats, gives way."""

import logging
from collections.abc import Callable

import pytest

from shardd.errors import StoreError
from shardd.streaming.bus_probe import ProbeBus
from shardd.streaming.fault_tolerance import (
    HEARTBEAT_S,
    JITTER,
    MISSED_S,
    Contender,
    Tried,
    moment_bytes,
    moment_ns,
)
from shardd.streaming.messages import FT_HEARTBEAT, PARTITIONING, ControlMessage
from shardd.streaming.receiver import FT

SUBJECT = b"_STAN.ft.c.g"
NOW_NS = 1_700_000_000_123_456_789


class Timer:
    def __init__(self, seconds: float, callback: Callable[[], object]) -> None:
        self.seconds = seconds
        self.callback = callback
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True


class Stage:
    """A contender whose clock, lock and chance are the test's."""

    def __init__(self, *, is_fenced: bool = False) -> None:
        self.bus = ProbeBus()
        self.timers: list[Timer] = []
        self.tries: list[Tried] = []
        self.events: list[str] = []
        self.chance = 0.5
        self.is_connected = True
        self.contender = Contender(
            self.bus,
            SUBJECT,
            "me",
            later=self._later,
            try_lock=self.tries.append,
            on_active=lambda: self.events.append("active"),
            on_abort=self.events.append,
            finish=lambda: None,
            clock_ns=lambda: NOW_NS,
            chance=lambda: self.chance,
            is_connected=lambda: self.is_connected,
            is_fenced=is_fenced,
        )
        self.contender.start()

    def _later(self, seconds: float, callback: Callable[[], object]) -> Timer:
        self.timers.append(Timer(seconds, callback))
        return self.timers[-1]

    @property
    def waiting(self) -> list[float]:
        return [timer.seconds for timer in self.timers if not timer.is_cancelled]

    def ring(self) -> None:
        """The timer that is set goes off."""
        (timer,) = [timer for timer in self.timers if not timer.is_cancelled]
        timer.is_cancelled = True
        timer.callback()

    def activate(self) -> None:
        self.ring()
        self.tries.pop()(True)

    def hear(self, activated_ns: int, server_id: str = "other", kind: int = FT_HEARTBEAT) -> None:
        message = ControlMessage(kind, server_id, moment_bytes(activated_ns))
        self.contender.take(message.encode())


def test_a_moment_is_what_go_makes_of_it() -> None:
    # What MarshalBinary of package time makes of 1700000000 s and 123456789 ns, in UTC.
    data = bytes.fromhex("010000000edce5e800075bcd15ffff")
    assert moment_bytes(NOW_NS) == data
    assert moment_ns(data) == NOW_NS
    for broken in (b"", data[:-1], b"\x03" + data[1:]):
        with pytest.raises(ValueError, match="not a moment"):
            moment_ns(broken)


def test_it_tries_the_lock_when_nobody_is_heard_and_again_after_a_refusal() -> None:
    stage = Stage()
    assert stage.bus.subscribed == {FT: SUBJECT}
    assert stage.waiting == [MISSED_S]
    stage.ring()
    assert stage.waiting == []  # a try is under way
    stage.contender.take(b"")  # somebody is heard meanwhile: one try at a time
    assert stage.waiting == []
    stage.tries.pop()(False)
    assert stage.waiting == [MISSED_S]
    assert stage.events == []
    stage.activate()
    assert stage.events == ["active"]
    assert stage.waiting == [HEARTBEAT_S]


def test_any_message_begins_the_wait_anew_and_times_are_spread() -> None:
    stage = Stage()
    for chance in (0.0, 1.0):
        stage.chance = chance
        stage.contender.take(b"\xff")
        assert stage.waiting == [pytest.approx(MISSED_S * (1 + JITTER * (2 * chance - 1)))]


def test_one_that_could_serve_nobody_does_not_try() -> None:
    stage = Stage()
    stage.is_connected = False
    stage.ring()
    assert stage.tries == []
    stage.is_connected = True
    stage.ring()
    assert len(stage.tries) == 1


def test_a_lock_that_cannot_be_tried_is_told_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, logger="shardd.streaming")
    stage = Stage()
    stage.ring()
    stage.tries.pop()(StoreError("the disk is gone"))
    text = "STREAM: ft: error attempting to get the store lock: the disk is gone"
    assert caplog.messages == [text]
    assert stage.waiting == [MISSED_S]


def test_why_it_stands_by_is_told_less_and_less_often(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stage = Stage()
    refused = "STREAM: ft: unable to get store lock at this time, going back to standby"
    for result, text in (
        (False, refused),
        (StoreError("gone"), "STREAM: ft: error attempting to get the store lock: gone"),
        (False, refused),
    ):
        caplog.clear()
        for _ in range(200):
            stage.ring()
            stage.tries.pop()(result)
        assert 5 <= caplog.messages.count(text) <= 12
        assert set(caplog.messages) == {text}
        assert caplog.messages[0] == text


def test_an_active_one_says_since_when_and_goes_on_saying_it() -> None:
    stage = Stage()
    stage.activate()
    stage.ring()
    assert len(stage.bus.sent) == 2
    for subject, reply, payload in stage.bus.sent:
        assert (subject, reply) == (SUBJECT, b"")
        message = ControlMessage.decode(payload)
        assert (message.kind, message.server_id) == (FT_HEARTBEAT, "me")
        assert moment_ns(message.data) == NOW_NS


@pytest.mark.parametrize(
    ("since_ns", "is_ended"), [(NOW_NS - 1, True), (NOW_NS, False), (NOW_NS + 1, False)]
)
def test_of_two_active_ones_the_later_one_ends(
    since_ns: int, is_ended: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, logger="shardd.streaming")
    stage = Stage()
    stage.activate()
    stage.hear(since_ns)
    text = 'ft: serverID "other" claims to be active'
    if is_ended:
        assert stage.events == ["active", f"{text}, aborting"]
        assert stage.waiting == []  # no heartbeat any more
    else:
        assert stage.events == ["active"]
        assert caplog.messages == [f"STREAM: {text}"]
        assert stage.waiting == [HEARTBEAT_S]


def test_nobody_gives_way_to_one_whom_the_store_keeps_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR, logger="shardd.streaming")
    stage = Stage(is_fenced=True)
    stage.activate()
    stage.hear(NOW_NS - 1)
    assert stage.events == ["active"]
    assert caplog.messages == ['STREAM: ft: serverID "other" claims to be active']


def test_an_active_one_hears_neither_itself_nor_anything_else() -> None:
    stage = Stage()
    stage.activate()
    stage.hear(0, server_id="me")
    stage.hear(0, kind=PARTITIONING)
    stage.contender.take(b"\xff")
    stage.contender.take(ControlMessage(FT_HEARTBEAT, "other", b"?").encode())
    assert stage.events == ["active"]


def test_one_that_is_stopped_makes_nothing_of_a_lock_that_comes_late() -> None:
    stage = Stage()
    stage.ring()
    stage.contender.stop()
    stage.tries.pop()(True)
    assert stage.events == []
    assert stage.waiting == []
