"""The supervisor's policy, with a clock that the test moves: nothing is forked here."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardd import limits
from shardd.watch import LATE_S_MAX, STEADY_S, Order, Verb, Watch

SILENCE_S = 5.0
PASS_S = limits.HEARTBEAT_S


class Host:
    """A watch and its clock, with the workers as the test wants them to be."""

    def __init__(self, workers: int = 2) -> None:
        self.now = 1000.0
        self.workers = workers
        self.watch = Watch(workers, SILENCE_S, self.now)
        self.pids = [0] * workers
        self.beats = [0] * workers
        self.next_pid = 100
        self.mute: set[int] = set()
        self.orders: list[tuple[float, Order]] = []

    def look(self) -> None:
        """What the shared page says: every living worker is ready and, unless mute, beats."""
        for index, pid in enumerate(self.pids):
            if pid:
                self.beats[index] += index not in self.mute
                self.watch.seen(index, True, self.beats[index], self.now)

    def carry_out(self) -> list[Order]:
        """Carries out what is due, and returns it."""
        orders = self.watch.due(self.now)
        for order in orders:
            self.orders.append((self.now, order))
            if order.verb is Verb.START:
                self.next_pid += 1
                self.pids[order.index] = self.next_pid
                self.watch.started(order.index, self.next_pid, self.now)
        return orders

    def run(self, seconds: float) -> list[Order]:
        """Passes, beat by beat, for this long; returns all that was ordered."""
        end = self.now + seconds
        orders = []
        while self.now < end:
            self.now = min(end, self.now + PASS_S)
            self.look()
            orders += self.carry_out()
        return orders

    def die(self, index: int) -> float | None:
        """The worker of this slot ends; returns when it is to be replaced."""
        pid, self.pids[index] = self.pids[index], 0
        ending = self.watch.ended(pid, self.now)
        assert ending is not None
        assert ending.index == index
        return ending.restart_s


@pytest.fixture
def host() -> Host:
    """Two workers, both ready."""
    host = Host()
    host.carry_out()
    host.look()
    assert host.watch.is_ready
    return host


def test_every_worker_is_started_at_once_and_none_twice() -> None:
    host = Host(3)
    assert host.carry_out() == [Order(Verb.START, index) for index in range(3)]
    assert host.run(1.0) == []


def test_server_is_ready_only_when_every_worker_is() -> None:
    host = Host(2)
    host.carry_out()
    assert host.watch.seen(0, True, 1, host.now)
    assert not host.watch.is_ready
    assert host.watch.seen(1, True, 1, host.now)
    assert host.watch.is_ready


def test_becoming_ready_is_said_once(host: Host) -> None:
    assert not host.watch.seen(0, True, 2, host.now)


def test_quiet_hours_need_no_order(host: Host) -> None:
    assert host.run(120.0) == []


def test_crashed_worker_is_replaced_after_the_shortest_back_off(host: Host) -> None:
    assert host.die(0) == limits.RESTART_BACKOFF_S_MIN
    assert host.carry_out() == []
    host.now += limits.RESTART_BACKOFF_S_MIN
    assert host.carry_out() == [Order(Verb.START, 0)]


def test_back_off_doubles_with_every_quick_death_up_to_its_limit(host: Host) -> None:
    waits = []
    for _ in range(12):
        waits.append(host.die(0))
        host.run(waits[-1] or 0.0)
        host.run(PASS_S)
        assert host.watch.is_ready
    expected = [
        min(limits.RESTART_BACKOFF_S_MIN * 2**n, limits.RESTART_BACKOFF_S_MAX) for n in range(12)
    ]
    assert waits == expected


def test_back_off_of_one_worker_is_not_anothers(host: Host) -> None:
    host.die(0)
    host.run(1.0)
    assert host.die(0) == 2 * limits.RESTART_BACKOFF_S_MIN
    assert host.die(1) == limits.RESTART_BACKOFF_S_MIN


def test_back_off_starts_over_once_a_replacement_was_ready_for_a_while(host: Host) -> None:
    for _ in range(5):
        wait_s = host.die(0)
        assert wait_s is not None
        host.run(wait_s + PASS_S)
    host.run(STEADY_S)
    assert host.die(0) == limits.RESTART_BACKOFF_S_MIN


def test_clean_exit_that_nobody_asked_for_is_replaced_too(host: Host) -> None:
    host.die(1)
    assert host.run(1.0) == [Order(Verb.START, 1)]


def test_stranger_that_was_reaped_is_nobodys_end(host: Host) -> None:
    assert host.watch.ended(4242, host.now) is None
    assert host.run(1.0) == []


def test_silent_worker_is_aborted_and_on_the_next_pass_killed(host: Host) -> None:
    host.mute.add(1)
    pid = host.pids[1]
    host.run(SILENCE_S + 4 * PASS_S)
    verbs = [(order.verb, order.index, order.pid) for _, order in host.orders[2:]]
    assert verbs == [(Verb.ABORT, 1, pid), (Verb.KILL, 1, pid)]
    (aborted_at, abort), (killed_at, kill) = host.orders[2:]
    assert abort.reason == "no heartbeat for 5.0s, ending it"
    assert kill.reason == ""
    assert aborted_at == 1000.0 + SILENCE_S
    assert killed_at == aborted_at + PASS_S


def test_worker_that_dies_of_the_abort_is_not_killed(host: Host) -> None:
    host.mute.add(0)
    host.run(SILENCE_S)
    assert host.orders[-1][1].verb is Verb.ABORT
    host.mute.clear()
    host.die(0)
    assert host.run(1.0) == [Order(Verb.START, 0)]


def test_kill_is_sent_once_however_long_the_kernel_takes(host: Host) -> None:
    host.mute.add(0)
    orders = host.run(3 * SILENCE_S)
    assert [order.verb for order in orders] == [Verb.ABORT, Verb.KILL]


def test_one_beat_just_in_time_starts_the_silence_over(host: Host) -> None:
    host.mute.add(0)
    assert host.run(SILENCE_S - PASS_S) == []
    host.mute.clear()
    assert host.run(PASS_S) == []
    host.mute.add(0)
    assert host.run(SILENCE_S - PASS_S) == []


def test_late_pass_of_the_supervisor_starts_every_silence_over(host: Host) -> None:
    host.mute.update((0, 1))
    host.run(SILENCE_S - PASS_S)
    host.now += 3600.0  # everybody was suspended
    host.look()
    assert host.carry_out() == []
    assert host.run(SILENCE_S - PASS_S) == []
    assert [order.verb for order in host.run(PASS_S)] == [Verb.ABORT, Verb.ABORT]


def test_pass_that_is_a_little_late_forgives_nothing(host: Host) -> None:
    host.mute.add(0)
    host.run(SILENCE_S - PASS_S)
    host.now += PASS_S + LATE_S_MAX
    host.look()
    assert [order.verb for order in host.carry_out()] == [Verb.ABORT]


def test_worker_that_does_not_boot_in_time_is_aborted_then_killed() -> None:
    host = Host(1)
    host.carry_out()
    verbs = []
    for _ in range(round(limits.BOOT_S_MAX / PASS_S) + 2):
        host.now += PASS_S
        host.watch.seen(0, False, 0, host.now)
        verbs += [order.verb for order in host.carry_out()]
    assert verbs == [Verb.ABORT, Verb.KILL]
    assert host.orders[1][1].reason == "not ready within 10.0s, ending it"


def test_booting_worker_need_not_beat() -> None:
    host = Host(1)
    host.carry_out()
    while host.now < 1000.0 + limits.BOOT_S_MAX - PASS_S:
        host.now += PASS_S
        host.watch.seen(0, False, 0, host.now)
        assert host.carry_out() == []


def test_late_pass_starts_the_boot_clock_over_too() -> None:
    host = Host(1)
    host.carry_out()
    host.now += 3600.0
    host.watch.seen(0, False, 0, host.now)
    assert host.carry_out() == []


def fail_to_boot(host: Host, index: int) -> float | None:
    """The worker of this slot dies before it is ready; the next one is started."""
    wait_s = host.die(index)
    if wait_s is not None:
        host.now += wait_s
        host.carry_out()
    return wait_s


def test_what_could_not_boot_is_called_by_its_name() -> None:
    watch = Watch(2, 1.0, 0.0, (), ("Worker 0", "Streaming 0").__getitem__)
    for _ in range(limits.BOOT_FAILURES_MAX):
        watch.started(1, 77, 0.0)
        watch.ended(77, 0.0)

    assert watch.failure == "Streaming 0 could not boot 3 times in a row"


def test_too_many_failed_boots_in_a_row_end_the_server() -> None:
    host = Host(2)
    host.carry_out()
    host.watch.seen(1, True, 1, host.now)
    for _ in range(limits.BOOT_FAILURES_MAX - 1):
        assert fail_to_boot(host, 0) is not None
        assert not host.watch.failure
    assert fail_to_boot(host, 0) is None
    assert host.watch.failure == "Worker 0 could not boot 3 times in a row"
    assert host.carry_out() == [Order(Verb.TERMINATE, 1, host.pids[1])]
    host.die(1)
    assert host.watch.has_stopped


def test_failed_boots_count_per_worker() -> None:
    host = Host(2)
    host.carry_out()
    for _ in range(limits.BOOT_FAILURES_MAX - 1):
        fail_to_boot(host, 0)
        fail_to_boot(host, 1)
    assert not host.watch.failure


def test_failed_boots_before_a_good_one_are_forgotten(host: Host) -> None:
    for _ in range(5):
        for _ in range(limits.BOOT_FAILURES_MAX - 1):
            wait_s = host.die(0)
            assert wait_s is not None
            host.now += wait_s
            assert Order(Verb.START, 0) in host.carry_out()
        host.run(PASS_S)
    assert not host.watch.failure


def test_failed_fork_is_tried_again_and_is_no_failed_boot() -> None:
    host = Host(1)
    wait_s = 0.0
    for _ in range(4 * limits.BOOT_FAILURES_MAX):
        host.now += wait_s
        assert host.watch.due(host.now) == [Order(Verb.START, 0)]
        wait_s = host.watch.not_started(0, host.now)
    assert wait_s == limits.RESTART_BACKOFF_S_MAX
    assert not host.watch.failure


def test_stop_terminates_everybody_once_and_starts_nobody(host: Host) -> None:
    host.die(0)
    host.watch.stop(host.now)
    assert host.watch.is_stopping
    assert host.carry_out() == [Order(Verb.TERMINATE, 1, host.pids[1])]
    host.watch.stop(host.now)
    assert host.run(limits.STOP_S_MAX - PASS_S) == []
    was_stopped = host.watch.has_stopped
    assert host.die(1) is None
    assert (was_stopped, host.watch.has_stopped) == (False, True)
    assert not host.watch.failure


def test_worker_that_will_not_end_is_killed_after_the_time_to_stop(host: Host) -> None:
    host.watch.stop(host.now)
    orders = host.run(limits.STOP_S_MAX + 4 * PASS_S)
    assert [order.verb for order in orders] == 2 * [Verb.TERMINATE] + 2 * [Verb.KILL]
    assert {order.reason for order in orders} == {"", "did not stop within 5.0s, killing it"}


def test_second_interrupt_kills_at_once(host: Host) -> None:
    host.watch.stop(host.now)
    host.carry_out()
    host.watch.stop_at_once()
    orders = host.carry_out()
    assert [(order.verb, order.reason) for order in orders] == 2 * [(Verb.KILL, "")]


def test_suspended_machine_does_not_eat_the_time_to_stop(host: Host) -> None:
    host.watch.stop(host.now)
    host.carry_out()
    host.now += 3600.0
    assert host.carry_out() == []
    orders = host.run(limits.STOP_S_MAX)
    assert [order.verb for order in orders] == [Verb.KILL, Verb.KILL]


def test_supervisor_sleeps_one_beat_and_wakes_early_for_what_is_due(host: Host) -> None:
    assert host.watch.wait_s(host.now) == limits.HEARTBEAT_S
    host.die(0)
    assert host.watch.wait_s(host.now) == pytest.approx(limits.RESTART_BACKOFF_S_MIN)
    host.watch.stop(host.now)
    assert host.watch.wait_s(host.now) == 0.0


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["run", "crash", "mute", "speak", "suspend"]), st.integers(0, 2)),
        max_size=60,
    )
)
def test_whatever_happens_only_silent_workers_are_signalled_and_dead_ones_come_back(
    events: list[tuple[str, int]],
) -> None:
    host = Host(3)
    host.carry_out()
    host.look()
    aborted: set[int] = set()  # a worker that was aborted does not come round again
    for event, index in events:
        if event == "run":
            pids = list(host.pids)
            for order in host.run(1.0):
                if order.verb is Verb.START:
                    continue
                assert order.index in host.mute
                assert order.pid == pids[order.index]
                aborted.add(order.pid)
                if order.verb is Verb.KILL:
                    host.die(order.index)
                    host.mute.discard(order.index)
        elif event == "crash" and host.pids[index]:
            host.die(index)
            host.mute.discard(index)
        elif event == "mute" and host.pids[index]:
            host.mute.add(index)
        elif event == "speak" and host.pids[index] not in aborted:
            host.mute.discard(index)
        elif event == "suspend":
            host.now += 100.0
    for index in list(host.mute):
        if host.pids[index]:
            host.die(index)
    host.mute.clear()
    host.run(limits.RESTART_BACKOFF_S_MAX + 2 * PASS_S)
    assert host.watch.is_ready


def test_retired_watch_replaces_nobody_and_ends_who_boots(host: Host) -> None:
    host.die(0)
    host.run(1.0)
    assert host.pids[0] == 103
    # The test's workers are ready at the first look: this one has not been looked at.
    host.pids[1] = 0
    assert host.watch.ended(102, host.now) is not None
    host.now += 1.0
    host.carry_out()
    host.watch.retire()
    host.watch.retire()
    assert host.carry_out() == [Order(Verb.TERMINATE, 1, 104)]
    assert host.die(1) is None
    assert host.run(2 * limits.RESTART_BACKOFF_S_MAX) == []
    assert host.die(0) is None
    assert host.run(2 * limits.RESTART_BACKOFF_S_MAX) == []
    assert not host.watch.has_stopped
    assert host.watch.wait_s(host.now) == limits.HEARTBEAT_S


def test_worker_that_waits_for_its_replacement_stays_away_once_retired(host: Host) -> None:
    assert host.die(0) is not None
    host.watch.retire()
    assert host.run(2 * limits.RESTART_BACKOFF_S_MAX) == []


def test_failed_boots_of_a_retired_watch_are_no_failure(host: Host) -> None:
    host = Host(limits.BOOT_FAILURES_MAX)
    host.carry_out()
    host.watch.retire()
    host.carry_out()
    for index in range(host.workers):
        host.die(index)
    assert host.watch.failure == ""
    assert not host.watch.is_stopping


def test_silent_worker_is_ended_though_the_watch_is_retired(host: Host) -> None:
    host.watch.retire()
    host.mute.add(0)
    orders = host.run(SILENCE_S + 2 * PASS_S)
    assert [order.verb for order in orders] == [Verb.ABORT, Verb.KILL]


def test_retired_watch_stops_like_any_other(host: Host) -> None:
    host.watch.retire()
    host.watch.stop(host.now)
    assert [order.verb for order in host.carry_out()] == [Verb.TERMINATE, Verb.TERMINATE]
    host.die(0)
    host.die(1)
    assert host.watch.has_stopped
