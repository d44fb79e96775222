"""Which worker is started, aborted, killed or given up on, and when: policy only, no IO.

A `Watch` is told what happened (`started`, `seen`, `ended`, `stop`) together with the time, and
answers with the orders that are due. It forks nothing, signals nobody and reads no clock, so every
rule below is tested without a process. The supervisor carries the orders out.

The rules. A worker that ends is replaced after a back-off that doubles with every quick death and
starts over once a replacement has been ready for a while. A worker that boots for too long or,
once ready, stops beating is aborted (so that it can dump its stack) and on the next pass killed.
Several failed boots of one worker in a row end the server: it would only fail again; but not those
of a worker that may take its time (it reads a store) once it has been ready: what it cannot reach
may come back, and the others go on without it. Nor are those counted that end because what they
need cannot be reached now. Workers that take their time are also told to stop first: what they
answer last passes by the others. A watch that is retired (lame duck mode) replaces nobody, and ends
who has not finished booting. If the supervisor itself was held up (a suspended machine, SIGSTOP to
the process group), everybody's silence was too, so the clocks start over.
"""

import enum
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Final

from shardd import limits

# How late the supervisor's own pass may be before it distrusts what it did not see.
LATE_S_MAX: Final = 1.0
# A worker that was ready for this long has proven itself: its next death is a first one again.
STEADY_S: Final = 2 * limits.RESTART_BACKOFF_S_MAX


class Verb(enum.Enum):
    """What the supervisor is asked to do about one worker."""

    START = "start"
    ABORT = "abort"
    KILL = "kill"
    TERMINATE = "terminate"


@dataclass(frozen=True, slots=True)
class Order:
    """One thing to do now. `pid` is 0 for START; `reason` is empty where nobody need be told."""

    verb: Verb
    index: int
    pid: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ending:
    """What the end of one worker means. `restart_s` is None when it will not be replaced."""

    index: int
    was_ready: bool
    restart_s: float | None


@dataclass(slots=True)
class _Worker:
    """One slot as the watch knows it. Times are those of the caller's monotonic clock."""

    start_at: float  # when to fork, while there is no process
    boot_s: float  # how long it may take to get ready
    is_slow: bool
    pid: int = 0  # 0: no process
    boot_since: float = 0.0
    ready_at: float | None = None
    heartbeat: int = 0
    beat_at: float = 0.0  # when the heartbeat was last seen to change
    aborted_at: float | None = None
    is_killed: bool = False
    backoff_s: float = limits.RESTART_BACKOFF_S_MIN
    boot_failures: int = 0  # in a row
    was_ever_ready: bool = False


class Watch:
    """The state of all workers of a host; owned by the supervisor's only thread."""

    def __init__(
        self,
        worker_count: int,
        silence_s: float,
        now: float,
        slow: Container[int] = (),
        name_of: Callable[[int], str] = "Worker {}".format,
    ) -> None:
        """`slow` are the workers that may take long to boot; `name_of` says what one is called."""
        # A worker that boots may have to wait for another one that hangs, and is ended for it.
        boot_s = max(limits.BOOT_S_MAX, 2 * silence_s)
        self._workers = [
            _Worker(now, limits.STREAMING_BOOT_S_MAX if index in slow else boot_s, index in slow)
            for index in range(worker_count)
        ]
        self._silence_s = silence_s
        self._name_of = name_of
        self._last_pass = now
        self._kill_at: float | None = None  # set once stopping
        self._must_terminate = False
        self._rest_at: float | None = None  # stopping: when those that are not slow follow
        self._is_retired = False
        self._must_dismiss = False  # the workers that boot, once, when retiring
        self._failure = ""

    @property
    def is_stopping(self) -> bool:
        """Whether the workers have been, or are about to be, told to end."""
        return self._kill_at is not None

    @property
    def has_stopped(self) -> bool:
        """Whether stopping is over: no worker is left."""
        return self.is_stopping and not any(worker.pid for worker in self._workers)

    @property
    def is_ready(self) -> bool:
        """Whether every worker is ready."""
        return all(worker.ready_at is not None for worker in self._workers)

    @property
    def is_retired(self) -> bool:
        """Whether no worker is started any more."""
        return self._is_retired

    def is_well(self, serving: Container[int]) -> bool:
        """Whether nothing is amiss that only a new start of the whole server could mend: none of
        those `serving` clients is ready, or a worker that hangs has not gone though it was told
        to. A worker that boots or waits for its turn is being taken care of."""
        if self.is_stopping or self._is_retired:
            return True  # that has bounds of its own
        if any(worker.pid and worker.aborted_at is not None for worker in self._workers):
            return False
        return any(
            worker.ready_at is not None
            for index, worker in enumerate(self._workers)
            if index in serving
        )

    @property
    def ready_count(self) -> int:
        """How many workers are ready."""
        return sum(worker.ready_at is not None for worker in self._workers)

    @property
    def failure(self) -> str:
        """Why the server was given up; empty when it was not."""
        return self._failure

    def pids(self) -> list[int]:
        """Every live worker's pid."""
        return [worker.pid for worker in self._workers if worker.pid]

    def pid(self, index: int) -> int:
        """The pid of one worker, 0 while it has none."""
        return self._workers[index].pid

    def started(self, index: int, pid: int, now: float) -> None:
        """A process was forked for this slot."""
        worker = self._workers[index]
        assert worker.pid == 0, "a slot holds one process at a time"
        worker.pid = pid
        worker.boot_since = worker.beat_at = now
        worker.ready_at = None
        worker.aborted_at = None
        worker.is_killed = False

    def not_started(self, index: int, now: float) -> float:
        """The fork failed, which is the host's trouble: try again later, for as long as it takes.

        Returns the seconds until then.
        """
        return self._back_off(self._workers[index], now)

    def seen(self, index: int, is_ready: bool, heartbeat: int, now: float) -> bool:
        """What the shared page says about a worker. Returns True when it has just become ready."""
        worker = self._workers[index]
        if not worker.pid:
            return False
        if worker.heartbeat != heartbeat:
            worker.heartbeat = heartbeat
            worker.beat_at = now
        if not is_ready or worker.ready_at is not None:
            return False
        worker.ready_at = worker.beat_at = now
        worker.boot_failures = 0
        worker.was_ever_ready = True
        return True

    def ended(self, pid: int, now: float, *, is_waiting: bool = False) -> Ending | None:
        """A child was reaped. None when it is none of the workers (a stranger, as PID 1 gets).
        `is_waiting`: what it needs cannot be reached now, and may be later."""
        index = next((i for i, worker in enumerate(self._workers) if worker.pid == pid), None)
        if index is None:
            return None
        worker = self._workers[index]
        worker.pid = 0
        was_ready = worker.ready_at is not None
        if worker.ready_at is not None and now - worker.ready_at >= STEADY_S:
            worker.backoff_s = limits.RESTART_BACKOFF_S_MIN
        worker.ready_at = None
        if self.is_stopping or self._is_retired:
            return Ending(index, was_ready, None)
        may_wait = is_waiting or (worker.is_slow and worker.was_ever_ready)
        if not was_ready and not may_wait:
            worker.boot_failures += 1
            if worker.boot_failures >= limits.BOOT_FAILURES_MAX:
                name = self._name_of(index)
                self._failure = f"{name} could not boot {worker.boot_failures} times in a row"
                self.stop(now)
                return Ending(index, was_ready, None)
        return Ending(index, was_ready, self._back_off(worker, now))

    def give_up(self, reason: str, now: float) -> None:
        """Ends the server: it cannot serve as it is configured, and trying again would not help."""
        if not self.is_stopping:
            self._failure = reason
            self.stop(now)

    def retire(self) -> None:
        """From here on nothing is started: nobody may come in, so there is nothing to do for a
        worker without clients. One that boots is told to end."""
        if not self._is_retired:
            self._is_retired = True
            self._must_dismiss = True

    def stop(self, now: float) -> None:
        """From here on nothing is started; the live are told to end and killed if they do not."""
        if not self.is_stopping:
            self._kill_at = now + 2 * limits.STOP_S_MAX
            self._must_terminate = True

    def stop_at_once(self) -> None:
        """Kill on the next pass."""
        self._kill_at = float("-inf")
        self._must_terminate = False

    def due(self, now: float) -> list[Order]:
        """One pass: everything that has to be done now."""
        if now - self._last_pass > limits.HEARTBEAT_S + LATE_S_MAX:
            self._forgive(now)
        self._last_pass = now
        if self.is_stopping:
            return self._due_stopping(now)
        orders = []
        if self._must_dismiss:
            self._must_dismiss = False
            orders = [
                Order(Verb.TERMINATE, index, worker.pid)
                for index, worker in enumerate(self._workers)
                if worker.pid and worker.ready_at is None
            ]
        for index, worker in enumerate(self._workers):
            order = self._due_of(index, worker, now)
            if order is not None:
                orders.append(order)
        return orders

    def wait_s(self, now: float) -> float:
        """How long the supervisor may sleep: until the next thing is due, one beat at the most."""
        if self.is_stopping:
            assert self._kill_at is not None
            begins = now if self._rest_at is None else self._rest_at
            deadlines = [begins if self._must_terminate else self._kill_at]
        else:
            deadlines = [self._deadline(worker) for worker in self._workers]
        return min(limits.HEARTBEAT_S, max(0.0, min(deadlines) - now))

    def _deadline(self, worker: _Worker) -> float:
        """When the next thing is due for a worker while the server runs."""
        if not worker.pid:
            return float("inf") if self._is_retired else worker.start_at
        if worker.is_killed:
            return float("inf")
        if worker.aborted_at is not None:
            return worker.aborted_at + limits.HEARTBEAT_S
        if worker.ready_at is not None:
            return worker.beat_at + self._silence_s
        return worker.boot_since + worker.boot_s

    def _due_of(self, index: int, worker: _Worker, now: float) -> Order | None:
        if now < self._deadline(worker):
            return None
        if not worker.pid:
            return Order(Verb.START, index)
        if worker.aborted_at is not None:
            worker.is_killed = True
            return Order(Verb.KILL, index, worker.pid)
        worker.aborted_at = now
        if worker.ready_at is not None:
            reason = f"no heartbeat for {now - worker.beat_at:.1f}s, ending it"
        else:
            reason = f"not ready within {worker.boot_s:.1f}s, ending it"
        return Order(Verb.ABORT, index, worker.pid, reason)

    def _due_stopping(self, now: float) -> list[Order]:
        assert self._kill_at is not None
        live = [(i, worker) for i, worker in enumerate(self._workers) if worker.pid]
        if now >= self._kill_at:
            kill = [(i, worker) for i, worker in live if not worker.is_killed]
            for _, worker in kill:
                worker.is_killed = True
            was_patient = self._kill_at > float("-inf")
            reason = f"did not stop within {limits.STOP_S_MAX:.1f}s, killing it"
            self._kill_at = float("inf")
            return [
                Order(Verb.KILL, i, worker.pid, reason if was_patient else "") for i, worker in kill
            ]
        if self._must_terminate:
            return self._terminate(live, now)
        return []

    def _terminate(self, live: list[tuple[int, _Worker]], now: float) -> list[Order]:
        """Slow ones first: what they answer last passes by the others."""
        slow = [(i, worker) for i, worker in live if worker.is_slow]
        if slow and self._rest_at is None:
            self._rest_at = now + limits.STOP_S_MAX
            live = slow
        elif slow and self._rest_at is not None and now < self._rest_at:
            return []
        else:
            self._must_terminate = False
            self._kill_at = now + limits.STOP_S_MAX
        return [Order(Verb.TERMINATE, i, worker.pid) for i, worker in live]

    def _forgive(self, now: float) -> None:
        """Starts every clock over that ran while nobody could look."""
        for worker in self._workers:
            worker.beat_at = now
            worker.boot_since = now
        if self._kill_at is not None and self._kill_at > self._last_pass:
            self._kill_at = max(self._kill_at, now + limits.STOP_S_MAX)

    def _back_off(self, worker: _Worker, now: float) -> float:
        """Sets when this slot is forked next, and doubles the wait for the time after."""
        wait_s = worker.backoff_s
        worker.start_at = now + wait_s
        worker.backoff_s = min(2 * wait_s, limits.RESTART_BACKOFF_S_MAX)
        return wait_s
