"""Several servers with one store: one is active, the others stand by (streaming sheet 14).

The active server tells the others on `_STAN.ft.<cluster>.<group>` that it lives. One that has not
heard of it for a while tries to take the store's lock, which is the only judge of who may serve:
heartbeats merely save tries. Should two hold it all the same (a file system that does not keep its
word), the one that was active later ends as soon as it hears of the other. Not so where the store
itself keeps out who has lost the lock: there the earlier one may be the one that was frozen, and
ends by itself, and the later one must not give way to it.

Nothing here waits, and nobody but the lead of a pool takes part.
"""

import logging
import struct
from collections.abc import Callable
from typing import Final, Protocol

from shardd.errors import StoreError
from shardd.streaming.bus import Bus
from shardd.streaming.messages import FT_HEARTBEAT, ControlMessage
from shardd.streaming.receiver import FT

HEARTBEAT_S: Final = 1.0
# Without a heartbeat for so long a server that stands by tries the lock.
MISSED_S: Final = 1.25
# All times differ by up to this share, so that servers that were started together do not try
# together.
JITTER: Final = 0.1
# How often the log says why this server has not the lock, at first and at last.
_SAID_AGAIN_S_MIN: Final = 1.0
_SAID_AGAIN_S_MAX: Final = 60.0

# A moment as Go's time.MarshalBinary has it: version, seconds since the year 1, nanoseconds, and
# the offset of the time zone in minutes, which is -1 for UTC.
_MOMENT: Final = struct.Struct(">BqIh")
_MOMENT_VERSION: Final = 1
_YEAR_1_S: Final = 62_135_596_800

log = logging.getLogger("shardd.streaming")

Tried = Callable[[bool | StoreError], object]


class Timer(Protocol):
    """What `later` returns."""

    def cancel(self) -> None:
        """It does not happen."""


def moment_bytes(unix_ns: int) -> bytes:
    """A moment as servers tell it to each other."""
    seconds, nanoseconds = divmod(unix_ns, 1_000_000_000)
    return _MOMENT.pack(_MOMENT_VERSION, seconds + _YEAR_1_S, nanoseconds, -1)


def moment_ns(data: bytes) -> int:
    """And back, in unix time. Raises ValueError."""
    # Version 2 adds the seconds of the time zone's offset; neither changes the moment.
    if len(data) < _MOMENT.size or data[0] not in (1, 2):
        raise ValueError("not a moment")
    _, seconds, nanoseconds, _ = _MOMENT.unpack_from(data)
    return int((seconds - _YEAR_1_S) * 1_000_000_000 + nanoseconds)


class Contender:
    """One server of a group. Lives in the event loop of its bus.

    Args:
        bus: the server's; what it hands over for `FT` is passed to `take`.
        subject: of the group.
        server_id: this server's name, unique.
        later: `later(seconds, callback)` of the event loop; what it returns has `cancel`.
        try_lock: begins to try the store's lock, and calls back in the event loop: whether this
            server has it now, or why that could not be tried.
        on_active: called once, when this server has the lock.
        on_abort: called with the reason when it must not be active any more.
        finish: has what was published leave.
        clock_ns: unix time.
        chance: numbers from 0 to 1.
        is_connected: whether the server could serve anybody now.
        is_fenced: whether the store lets nobody write who has lost the lock.
    """

    def __init__(
        self,
        bus: Bus,
        subject: bytes,
        server_id: str,
        *,
        later: Callable[[float, Callable[[], object]], Timer],
        try_lock: Callable[[Tried], object],
        on_active: Callable[[], object],
        on_abort: Callable[[str], object],
        finish: Callable[[], object],
        clock_ns: Callable[[], int],
        chance: Callable[[], float],
        is_connected: Callable[[], bool],
        is_fenced: bool,
    ) -> None:
        self._bus = bus
        self._subject = subject
        self._server_id = server_id
        self._later = later
        self._try_lock = try_lock
        self._on_active = on_active
        self._on_abort = on_abort
        self._finish = finish
        self._clock_ns = clock_ns
        self._chance = chance
        self._is_connected = is_connected
        self._is_fenced = is_fenced
        self._timer: Timer | None = None
        self._is_stopped = False
        self._activated_ns = 0  # 0: standing by
        self._said = ""  # why this server has not the lock, as the log has it
        self._quiet_s = 0.0  # for so long it is not said again
        self._said_again_s = _SAID_AGAIN_S_MIN

    def start(self) -> None:
        """Stand by."""
        log.info("STREAM: Starting in standby mode")
        self._bus.subscribe(FT, self._subject)
        self._wait()

    def stop(self) -> None:
        """Neither tries nor says anything any more."""
        self._is_stopped = True
        self._cancel()

    def take(self, payload: bytes) -> None:
        """What another server of the group says."""
        if self._is_stopped:
            return
        if self._activated_ns:
            self._hear(payload)
        elif self._timer is not None:
            self._wait()

    # --- standing by -----------------------------------------------------------------------------

    def _wait(self) -> None:
        self._set(MISSED_S, self._try)

    def _try(self) -> None:
        """Nobody was heard for a while."""
        self._timer = None
        if self._is_connected():
            self._try_lock(self._tried)
        else:
            self._wait()

    def _tried(self, result: bool | StoreError) -> None:
        if self._is_stopped:
            return
        if result is True:
            self._activated_ns = self._clock_ns()
            log.info("STREAM: Server is active")
            self._beat()
            self._on_active()
            return
        if isinstance(result, StoreError):
            text = f"ft: error attempting to get the store lock: {result}"
            self._say(logging.ERROR, text)
        else:
            text = "ft: unable to get store lock at this time, going back to standby"
            self._say(logging.INFO, text)
        self._wait()

    def _say(self, level: int, text: str) -> None:
        """What was said before less and less often: an active server that cannot be heard may stay
        for long, and a database may be away for long."""
        self._quiet_s -= MISSED_S
        if text != self._said:
            self._quiet_s, self._said_again_s = 0.0, _SAID_AGAIN_S_MIN
        if self._quiet_s <= 0:
            log.log(level, "STREAM: %s", text)
            self._said = text
            self._quiet_s = self._said_again_s
            self._said_again_s = min(2 * self._said_again_s, _SAID_AGAIN_S_MAX)

    # --- active ----------------------------------------------------------------------------------

    def _beat(self) -> None:
        heartbeat = ControlMessage(FT_HEARTBEAT, self._server_id, moment_bytes(self._activated_ns))
        self._bus.send(self._subject, heartbeat.encode())
        self._set(HEARTBEAT_S, self._beat)
        self._finish()

    def _hear(self, payload: bytes) -> None:
        try:
            message = ControlMessage.decode(payload)
        except ValueError:
            return
        if message.kind != FT_HEARTBEAT or message.server_id == self._server_id:
            return
        try:
            theirs_ns = moment_ns(message.data)
        except ValueError as error:
            log.error("STREAM: Error decoding activation time: %s", error)
            return
        text = f'ft: serverID "{message.server_id}" claims to be active'
        if theirs_ns < self._activated_ns and not self._is_fenced:
            self.stop()
            self._on_abort(f"{text}, aborting")
        else:
            log.error("STREAM: %s", text)

    # --- timers ----------------------------------------------------------------------------------

    def _set(self, seconds: float, callback: Callable[[], object]) -> None:
        self._cancel()
        spread = 1 + JITTER * (2 * self._chance() - 1)
        self._timer = self._later(seconds * spread, callback)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
