"""Clients of every host of a cluster that check that each message arrives where it should, once.

What every host's client subscribes to is known here; so is what everybody has to hear of it.
"""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import count
from typing import Final

from tests.support.fixtures import Dial
from tests.support.machines import Machines
from tests.support.wireclient import WireClient

_MESSAGE: Final = re.compile(rb"MSG (\S+) \d+ \d+\r\n(<\d+\.\d+>)\r\n\Z")
_numbers = count()


class Crew:
    """One client of each host. All subscribe to `all`, and to `work` as members of one group."""

    def __init__(self, machines: Machines, dial: Dial) -> None:
        self._machines = machines
        self._dial = dial
        self.clients: list[WireClient] = []
        self.truth: list[list[str]] = []
        # What not all could be made to hear, and some have not read yet.
        self._partial: set[bytes] = set()
        self._sent = range(0)
        for index in range(len(machines.brokers)):
            self.clients.append(self._recruit(index))
            self.truth.append(["all", "work"])

    def _recruit(self, index: int) -> WireClient:
        client = self._dial(self._machines[index]).connect()
        client.send(b"SUB all 1\r\nSUB work group 2\r\n")
        client.ping()
        return client

    def replace(self, index: int) -> None:
        """The host of this one is another one now."""
        self.clients[index].close()
        self.clients[index] = self._recruit(index)
        self.truth[index] = ["all", "work"]

    def want(self, index: int, number: int) -> None:
        """Subscribe to one thing more."""
        self.clients[index].subscribe(b"more.%d" % number, b"more%d" % number)
        self.truth[index].append(f"more.{number}")

    def unwant(self, index: int, number: int) -> None:
        """Take that back."""
        self.clients[index].send(b"UNSUB more%d\r\n" % number)
        self.clients[index].ping()
        self.truth[index].remove(f"more.{number}")

    def check(self, only: Sequence[int] | None = None) -> None:
        """What hosts believe is true, and messages arrive: all of them, where they should, in
        order, once. `only`: of the clients of these hosts, which are connected to each other."""
        if only is None:
            self._machines.settle()
            self._machines.wait_interest(self.truth)
        self.send(only=only)
        self.expect(only=only)

    def send(self, rounds: int = 20, only: Sequence[int] | None = None) -> None:
        """Everybody publishes to all, and work for one."""
        start = next(_numbers) * 1000
        self._sent = range(start, start + rounds)
        for number in self._sent:
            for index in range(len(self.clients)) if only is None else only:
                token = b"<%d.%d>" % (index, number)
                self.clients[index].send(
                    *(b"PUB %b %d\r\n%b\r\n" % (s, len(token), token) for s in (b"work", b"all"))
                )

    def expect(self, only: Sequence[int] | None = None) -> None:
        """What was sent has arrived."""
        chosen = range(len(self.clients)) if only is None else only
        work: Counter[bytes] = Counter()
        for index in chosen:
            heard = self._listen(index, {b"<%d.%d>" % (i, self._sent[-1]) for i in chosen})
            for origin in chosen:
                mine = b"<%d." % origin
                tokens = [token for token in heard[b"all"] if token.startswith(mine)]
                assert tokens == [b"<%d.%d>" % (origin, number) for number in self._sent], (
                    f"host{index + 1} heard of host{origin + 1}: {tokens}"
                )
            work.update(heard[b"work"])
        sent = {b"<%d.%d>" % (index, number) for index in chosen for number in self._sent}
        if only is None:
            assert work == Counter(sent), work
        else:
            self._partial |= sent

    def _listen(self, index: int, last: set[bytes]) -> dict[bytes, list[bytes]]:
        """Everything that comes until these have."""
        heard: dict[bytes, list[bytes]] = {b"all": [], b"work": []}
        left = set(last)
        while left:
            text = self.clients[index].read_until(b">\r\n")
            found = _MESSAGE.fullmatch(text)
            assert found, text
            if found[2] not in self._partial:
                heard[found[1]].append(found[2])
            if found[1] == b"all":
                left.discard(found[2])
        return heard
