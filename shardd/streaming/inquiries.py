"""Asking a client whether it is there: an empty request to its heartbeat inbox, with a time limit.

Three things ask: a connect with an id that is taken, the heartbeats, and the start of a server that
wants to know whether it is the only one. Where NATS says at once that nobody listens, so does the
answer.
"""

from collections.abc import Callable
from dataclasses import dataclass

from shardd.streaming.core import Core
from shardd.streaming.schedule import Timer


@dataclass(slots=True)
class _Asked:
    timer: Timer
    on_answer: Callable[[bool], object]


class Inquiries:
    """The requests of one worker that wait for an answer."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._asked: dict[int, _Asked] = {}
        self._number = 0

    def ask(
        self,
        subject: bytes,
        timeout_ms: int,
        on_answer: Callable[[bool], object],
        payload: bytes = b"",
    ) -> None:
        """Calls back once, later or from within: whether somebody answered."""
        self._number += 1
        number = self._number
        timer = self._core.schedule.at(
            self._core.now_ms + timeout_ms, lambda: self._answered(number, False)
        )
        self._asked[number] = _Asked(timer, on_answer)
        reply = b"%b.hb.%d" % (self._core.server_row.inbox_prefix, number)
        if not self._core.bus.send(subject, payload, reply):
            self._answered(number, False)

    def take(self, subject: bytes, header: bytes) -> None:
        """An answer arrived; "no responders" is one that says no."""
        number = subject.rpartition(b".")[2]
        if number.isdigit() and len(number) < 20:
            self._answered(int(number), not is_no_responders(header))

    def _answered(self, number: int, is_there: bool) -> None:
        asked = self._asked.pop(number, None)
        if asked is not None:
            asked.timer.cancel()
            asked.on_answer(is_there)


def is_no_responders(header: bytes) -> bool:
    """Whether a message is NATS saying that nobody subscribes to a request's subject."""
    return header.split(b"\r\n", 1)[0].split(b" ", 1)[-1].strip().startswith(b"503")
