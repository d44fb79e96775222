"""A cluster in which things go wrong by a seed, and clients that come, go and change their minds.

`Turmoil.trouble` does something at random: to a link, to a host, to a process, or by a client.
`Turmoil.recover` ends all of it and waits for a full mesh; `Turmoil.check` then compares what every
host says with what the clients really hold, and what they hear with what they have to.

What is under way when something breaks may be lost, but nothing may ever be heard twice: that is
looked for in all that any client reads. What is published when all is well has to arrive.
"""

import contextlib
import itertools
import json
import os
import random
import re
import signal
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final

import psutil

from tests.support import certificates
from tests.support.broker import NATS_SERVER
from tests.support.machines import HTTP_PORT, Machines
from tests.support.member import Heard, Member, matches
from tests.support.waiting import PATIENCE, WaitedTooLong, let_pass, wait_until

CLIENTS_MIN: Final = 2  # of each host
CLIENTS_MAX: Final = 5
_SUBJECTS: Final = (b"a.1", b"a.2", b"b.1", b"b.2", b"c.1")
_PATTERNS: Final = (*_SUBJECTS, b"a.*", b"*.1", b"b.>")
_QUEUES: Final = (b"", b"", b"red", b"blue")
_PAUSE_S_MAX: Final = 1.2
_NAMES: Final = ("Worker 0", "Worker 1", "Router", "Monitor")
_READY: Final = re.compile(r"(\S+(?: \d+)?) is ready, pid (\d+)")
_ANSWER_S: Final = 10.0 * PATIENCE
_RECOVERY_S: Final = 40.0 * PATIENCE
_GROWTH_BYTES_MAX: Final = 24 * 1_048_576
# A connection of monitoring, a descriptor that a library opens when it first needs it.
_DESCRIPTORS_MORE_MAX: Final = 3

# What shardd may say, more than INFO, when such things are done to it.
_EXPECTED: Final = re.compile(
    r"Duplicate Route|Router connection closed|Error trying to connect to route|"
    r"TLS route handshake error|Slow Consumer|Stale Connection|"
    r"ended(?: while booting)?: SIGKILL|no heartbeat for"
)
_LEVEL: Final = re.compile(r"\[(WRN|ERR|FTL)\]|Traceback|Error:")


class Turmoil:
    """Owns the clients; the cluster is handed in.

    Args:
        machines: a settled cluster, whose thread the caller's is.
        rng: chooses everything.
        tell: gets a line for everything that is done.
    """

    def __init__(
        self, machines: Machines, rng: random.Random, tell: Callable[[str], None] = print
    ) -> None:
        self.machines = machines
        self._rng = rng
        self._tell = tell
        self._count = len(machines.brokers)
        self.members: list[Member] = []
        self._cut: set[tuple[int, int]] = set()
        self._down: set[int] = set()
        self._frozen: dict[int, list[int]] = {}
        self._numbers = itertools.count()
        self._has_only_ours = all(each.kind != NATS_SERVER for each in machines.brokers)
        self._origins: dict[bytes, int] = {}
        self._seen: set[tuple[object, ...]] = set()
        self._first: dict[int, dict[str, int]] = {}
        self._logs = [0] * self._count
        self._sizes: dict[int, tuple[int, int, int]] = {}
        self._troubles: list[tuple[int, Callable[[], None]]] = [
            (3, self._cut_link),
            (2, self._cut_one_way),
            (3, self._heal_link),
            (3, self._kill_router),
            (2, self._kill_worker),
            (2, self._take_host_down),
            (3, self._bring_host_up),
            (3, self._freeze),
            (3, self._thaw),
            (1, self._reload),
        ]
        self._note_processes()
        self._recruit()

    # --- trouble -------------------------------------------------------------------------------

    def trouble(self, steps: int) -> None:
        """So many things go wrong, one after the other."""
        weights = [weight for weight, _ in self._troubles]
        for _ in range(steps):
            self._rng.choices(self._troubles, weights)[0][1]()
            self._change_minds()
            if self._rng.random() < 0.4:
                let_pass(self._rng.uniform(0.0, _PAUSE_S_MAX))

    def _reachable(self, *, ours: bool = False) -> list[int]:
        return [
            index
            for index in range(self._count)
            if index not in self._down
            and index not in self._frozen
            and not (ours and self.machines[index].kind == NATS_SERVER)
        ]

    def _one_of(self, choices: Sequence[int]) -> int | None:
        return self._rng.choice(choices) if choices else None

    def _change_minds(self) -> None:
        living = set(self._reachable())
        for _ in range(self._rng.randrange(12)):
            there = [member for member in self.members if member.index in living]
            if not there:
                return
            member = self._rng.choice(there)
            with contextlib.suppress(OSError):  # its worker has died
                what = self._rng.random()
                token = b"%d" % next(self._numbers)
                self._origins[token] = member.index
                member.client.publish(self._rng.choice(_SUBJECTS), token)
                if what < 0.1 and len(self.members) > self._count:
                    self.members.remove(member)
                    member.client.close()
                elif what < 0.2 and len(there) < CLIENTS_MAX * len(living):
                    self._join(member.index)
                elif what < 0.5 and member.holds:
                    member.unsubscribe(self._rng.choice(list(member.holds)))
                else:
                    member.subscribe(self._rng.choice(_PATTERNS), self._rng.choice(_QUEUES))

    def _join(self, index: int) -> None:
        # A worker that was killed a moment ago may take it, and be gone before it answers.
        with contextlib.suppress(OSError, AssertionError):
            self.members.append(Member(index, self.machines[index]))

    def _pair(self) -> tuple[int, int]:
        one, other = self._rng.sample(range(self._count), 2)
        return one, other

    def _cut_link(self) -> None:
        one, other = self._pair()
        self._tell(f"cut {one + 1} {other + 1}")
        self._cut |= {(one, other), (other, one)}
        self.machines.network.cut(one, other)

    def _cut_one_way(self) -> None:
        one, other = self._pair()
        self._tell(f"cut one way {one + 1} {other + 1}")
        self._cut.add((one, other))
        self.machines.network.cut_one_way(one, other)

    def _heal_link(self) -> None:
        if self._cut:
            one, other = self._rng.choice(sorted(self._cut))
            self._tell(f"heal {one + 1} {other + 1}")
            self._cut -= {(one, other), (other, one)}
            self.machines.network.heal(one, other)

    def _kill_router(self) -> None:
        self._kill("Router")

    def _kill_worker(self) -> None:
        self._kill(f"Worker {self._rng.randrange(2)}")

    def _kill(self, name: str) -> None:
        index = self._one_of(self._reachable(ours=True))
        if index is not None:
            self._tell(f"kill {name} of {index + 1}")
            with contextlib.suppress(ProcessLookupError):  # nobody has replaced it yet
                os.kill(self._processes(index)[name], signal.SIGKILL)

    def _note_processes(self) -> None:
        for index in self._reachable(ours=True):
            self._processes(index)

    def _processes(self, index: int) -> dict[str, int]:
        """The children of a shardd by name: the last that was ready. The log tells of successors;
        the first ones were forked in this order."""
        broker = self.machines[index]
        if broker.pid not in self._first:
            children = [each for each in broker.processes() if each.pid != broker.pid]
            children.sort(key=lambda child: (child.create_time(), child.pid))
            assert len(children) == len(_NAMES), children
            pids = (child.pid for child in children)
            self._first[broker.pid] = dict(zip(_NAMES, pids, strict=True))
        found = _READY.findall(broker.log_text())
        return self._first[broker.pid] | {name: int(pid) for name, pid in found}

    def _take_host_down(self) -> None:
        index = self._one_of(self._reachable())
        if index is None or len(self._down) + 1 == self._count:
            return
        self._down.add(index)
        self._sizes.pop(index, None)
        for member in [each for each in self.members if each.index == index]:
            self.members.remove(member)
            member.client.close()
        self._look_into_log(index)
        self._logs[index] = 0
        way = self._rng.choice(("stop", "kill", "power off"))
        self._tell(f"{way} {index + 1}")
        if way == "stop":
            self.machines[index].stop()
        elif way == "kill":
            self.machines[index].kill()
        else:
            self.machines.power_off(index)

    def _bring_host_up(self) -> None:
        index = self._one_of(sorted(self._down))
        if index is not None:
            self._tell(f"start {index + 1}")
            self.machines.network.plug(index)
            self.machines.start(index)
            self.machines.plug(index)
            self._down.discard(index)
            self._note_processes()

    def _freeze(self) -> None:
        index = self._one_of(self._reachable())
        if index is None:
            return
        everything = [process.pid for process in self.machines[index].processes()]
        names = {} if self.machines[index].kind == NATS_SERVER else self._processes(index)
        name = self._rng.choice(["all of it", *names])
        self._tell(f"freeze {name} of {index + 1}")
        self._frozen[index] = [names[name]] if name in names else everything
        self._signal(index, signal.SIGSTOP)

    def _thaw(self) -> None:
        index = self._one_of(sorted(self._frozen))
        if index is not None:
            self._tell(f"thaw {index + 1}")
            self._signal(index, signal.SIGCONT)
            del self._frozen[index]

    def _signal(self, index: int, number: signal.Signals) -> None:
        for pid in self._frozen[index]:
            with contextlib.suppress(ProcessLookupError):  # the supervisor has replaced it
                os.kill(pid, number)

    def _reload(self) -> None:
        index = self._one_of(self._reachable())
        if index is not None:
            self._tell(f"reload {index + 1}")
            text = self.machines.change(index, lambda old: renew(self.machines, old))
            answer = self.machines[index].reload(text)
            assert "Reloaded" in answer, answer

    # --- the end of it -------------------------------------------------------------------------

    def recover(self) -> None:
        """All is well again: every host is up and has a route to every other, and clients."""
        while self._frozen:
            self._thaw()
        while self._cut:
            self._heal_link()
        while self._down:
            self._bring_host_up()
        wait_until(self._are_complete, "the processes of every host", _RECOVERY_S)
        for member in [each for each in self.members if not each.is_there()]:
            self.members.remove(member)
            member.client.close()
        self._recruit()
        self._change_minds()
        self.machines.settle()
        self._change_minds()

    def _are_complete(self) -> bool:
        """Whether no process is missing or being replaced."""
        return all(
            all(psutil.pid_exists(pid) for pid in self._processes(index).values())
            and len(self.machines[index].processes()) == 1 + len(self._processes(index))
            for index in self._reachable(ours=True)
        )

    def _recruit(self) -> None:
        for index in range(self._count):
            while sum(member.index == index for member in self.members) < CLIENTS_MIN:
                member = Member(index, self.machines[index])
                self.members.append(member)
                for _ in range(3):
                    member.subscribe(self._rng.choice(_PATTERNS), self._rng.choice(_QUEUES))
                member.client.ping()

    def close(self) -> None:
        """End the clients, and let nothing stand still."""
        while self._frozen:
            self._thaw()
        for member in self.members:
            member.client.close()

    # --- what has to be true -------------------------------------------------------------------

    def check(self) -> None:
        """Interest, deliveries, sizes and logs are what they have to be."""
        self._check_subscriptions()
        self.machines.wait_interest(self._truth())
        self._check_deliveries()
        for index in range(self._count):
            self._look_into_log(index)
            if self.machines[index].kind != NATS_SERVER:
                self._check_size(index)

    def _truth(self) -> list[list[str]]:
        held: list[set[tuple[bytes, bytes]]] = [set() for _ in range(self._count)]
        for member in self.members:
            held[member.index].update(member.holds.values())
        return [[pattern.decode() for pattern, _ in each] for each in held]

    def _document(self, index: int, path: str) -> dict[str, Any]:
        url = f"http://{self.machines.address(index)}:{HTTP_PORT}/{path}"
        with urllib.request.urlopen(url, timeout=_ANSWER_S) as response:
            found: dict[str, Any] = json.load(response)
        return found

    def _check_subscriptions(self) -> None:
        """A host knows the clients that are there and no others, and what each of them holds."""
        for index in range(self._count):
            wanted = sorted(
                sorted(pattern.decode() for pattern, _ in member.holds.values())
                for member in self.members
                if member.index == index
            )

            def known(index: int = index) -> list[list[str]]:
                rows = self._document(index, "connz?subs=1")["connections"]
                return sorted(sorted(row.get("subscriptions_list", [])) for row in rows)

            def is_known(wanted: list[list[str]] = wanted) -> bool:
                return known() == wanted

            with contextlib.suppress(WaitedTooLong):
                wait_until(is_known, "clients")
            assert known() == wanted, f"host{index + 1}"

    def _check_deliveries(self) -> None:
        """Everybody publishes; each message is heard where it has to be, once."""
        sent: list[tuple[bytes, bytes]] = []
        end = b"end.%d" % next(self._numbers)
        for member in self.members:
            member.client.send(b"SUB %b 0\r\nPING\r\n" % end)
            self._note(member, member.backlog + member.read())
            member.backlog.clear()
        self._wait_heard(end)
        for member in self.members:
            for _ in range(20):
                sent.append((self._rng.choice(_SUBJECTS), b"%d" % next(self._numbers)))
                self._origins[sent[-1][1]] = member.index
                member.client.publish(*sent[-1])
            member.client.publish(end, b"end")
        heard = [self._to_the_end(member) for member in self.members]
        # A message that comes twice, or round by a third host, would be here by now.
        for member in self.members:
            member.client.publish(end, b"end")
        for member, messages in zip(self.members, heard, strict=True):
            messages.extend(self._to_the_end(member))
            member.client.send(b"UNSUB 0\r\nPING\r\n")
            messages.extend(member.read())
            self._note(member, messages)
        self._compare(sent, heard)

    def _note(self, member: Member, messages: list[Heard]) -> None:
        """Nobody may have heard these before: neither the subscription nor the queue group.

        A nats-server hands a message that came for a queue group whose members have just left to
        another server, even to the one that it came from, and plain subscriptions there hear it
        again. So this holds for shardd alone, or while all is well.
        """
        for sid, subject, token in messages:
            if sid:
                pattern, queue = member.held[sid]
                assert matches(pattern, subject), (pattern, subject)
                key = (queue, token) if queue else (member.number, sid, token)
                assert not self._has_only_ours or key not in self._seen, (
                    f"heard twice on host{member.index + 1}: {key}"
                    f" of host{self._origins[token] + 1}, {pattern!r}"
                )
                self._seen.add(key)

    def _wait_heard(self, subject: bytes) -> None:
        """Wait until everybody hears everybody there."""
        everybody = range(len(self.members))
        missing = {(one, other) for one in everybody for other in everybody}

        def has_heard() -> bool:
            asking = {pair[0] for pair in missing}
            for one in asking:
                self.members[one].client.publish(subject, b"%d" % one)
                self.members[one].client.send(b"PING\r\n")
            for other, member in enumerate(self.members):
                if other not in asking:
                    member.client.send(b"PING\r\n")
                messages = member.read()
                self._note(member, messages)
                missing.difference_update((int(m[2]), other) for m in messages if m[0] == 0)
            return not missing

        try:
            wait_until(has_heard, "everybody to hear everybody")
        except WaitedTooLong:
            where = [(self.members[a].index + 1, self.members[b].index + 1) for a, b in missing]
            raise AssertionError(f"unheard, from host to host: {sorted(where)}") from None

    def _to_the_end(self, member: Member) -> list[Heard]:
        """What comes until everybody has said that it was all."""
        heard: list[Heard] = []
        ends = 0
        while ends < len(self.members):
            message = member.take()
            if message[0] == 0:
                ends += message[2] == b"end"
            else:
                heard.append(message)
        return heard

    def _compare(self, sent: list[tuple[bytes, bytes]], heard: list[list[Heard]]) -> None:
        groups: Counter[tuple[bytes, bytes]] = Counter()
        tokens_sent = {token for _, token in sent}
        for member, messages in zip(self.members, heard, strict=True):
            plain: dict[int, list[bytes]] = {
                sid: [] for sid, (_, queue) in member.holds.items() if not queue
            }
            for sid, _, token in messages:
                queue = member.held[sid][1]
                if token not in tokens_sent:
                    continue  # of before, on its way for long
                if queue:
                    groups[queue, token] += 1
                else:
                    plain[sid].append(token)
            for sid, tokens in plain.items():
                pattern = member.holds[sid][0]
                wanted = {token for subject, token in sent if matches(pattern, subject)}
                assert Counter(tokens) == Counter(wanted), (
                    f"{pattern!r} on host{member.index + 1}:"
                    f" {Counter(tokens) - Counter(wanted)} too many,"
                    f" {Counter(wanted) - Counter(tokens)} missing"
                )
        held = {hold for member in self.members for hold in member.holds.values()}
        wanted_of_groups = {
            (queue, token)
            for pattern, queue in held
            for subject, token in sent
            if queue and matches(pattern, subject)
        }
        assert groups == Counter(wanted_of_groups), (
            f"queue groups: {groups - Counter(wanted_of_groups)} too many,"
            f" {Counter(wanted_of_groups) - groups} missing"
        )

    def _check_size(self, index: int) -> None:
        """Processes and descriptors are what they were when this host was last started, and memory
        is not much more."""
        family = self.machines[index].processes()
        clients = sum(member.index == index for member in self.members)

        def descriptors() -> int:
            return sum(each.num_fds() for each in family) - clients

        memory = sum(each.memory_full_info().pss for each in family)
        first = self._sizes.setdefault(index, (len(family), descriptors(), memory))
        allowed = first[1] + _DESCRIPTORS_MORE_MAX
        assert len(family) == first[0], f"processes of host{index + 1}: {first[0]}, now {family}"
        with contextlib.suppress(WaitedTooLong):  # routes that gave way to better ones may linger
            wait_until(lambda: descriptors() <= allowed, "descriptors")
        self._tell(f"host{index + 1}: {descriptors()} descriptors, {memory >> 10} KiB")
        assert descriptors() <= allowed, (
            f"descriptors of host{index + 1}: {allowed} allowed, now {_described(family)}"
        )
        assert memory < first[2] + _GROWTH_BYTES_MAX, f"memory of host{index + 1}: {memory}"

    def _look_into_log(self, index: int) -> None:
        """Nothing is there that nobody has done anything for."""
        if self.machines[index].kind == NATS_SERVER:
            return
        text = self.machines[index].log_text()
        lines = text[self._logs[index] :].splitlines()
        self._logs[index] = len(text)
        # Who is ended for its silence and goes on in that moment ends in another way than by KILL.
        silent = re.findall(r"pid (\d+): no heartbeat for", text)
        odd = [
            line
            for line in lines
            if _LEVEL.search(line)
            and not _EXPECTED.search(line)
            and not any(f"pid {pid}, ended: SIGABRT" in line for pid in silent)
        ]
        assert not odd, f"host{index + 1} says:\n" + "\n".join(odd)


def _described(family: Sequence[psutil.Process]) -> str:
    """What every process has open, by kind."""
    kinds = {}
    for each in family:
        directory = f"/proc/{each.pid}/fd"
        targets = []
        for name in os.listdir(directory):
            with contextlib.suppress(FileNotFoundError):
                targets.append(os.readlink(f"{directory}/{name}").partition(":[")[0])
        kinds[each.pid] = Counter(targets)
    return "\n".join(f"{pid}: {dict(counts)}" for pid, counts in kinds.items())


_certificates = itertools.count()


def tls_of(machines_count: int) -> str:
    """The lines of a `cluster` block: routes by TLS, with a certificate that is new."""
    hosts = " ".join(f"10.77.0.{number + 1}" for number in range(machines_count))
    issued = certificates.authority().issue(f"turmoil{next(_certificates)}", host=hosts)
    authority = certificates.authority().certificate
    return (
        f'tls {{ cert_file: "{issued.certificate}", key_file: "{issued.key}"\n'
        f'ca_file: "{authority}", timeout: 5 }}\n'
    )


def renew(machines: Machines, text: str) -> str:
    """The same file with another certificate."""
    return re.sub(r"tls \{[^}]*\}\n", lambda _: tls_of(len(machines.brokers)), text)
