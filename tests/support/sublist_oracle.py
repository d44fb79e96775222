"""The plain-Python twin of `shardd.router.subject` and `shardd.router.sublist`: obvious, not fast.

It keeps a dictionary of subscriptions and one of other processes' interest, and tries every
pattern on every subject. Results have the shape that `shardd.router.sublist_probe` gives.
"""

from collections import Counter
from dataclasses import dataclass, field

# Account, subject, and the queue or None.
Key = tuple[int, bytes, bytes | None]
# Plain handles, the mask of processes, and by queue name: member handles, the weight of each other
# process, the total weight.
MatchData = tuple[list[int], int, dict[bytes, tuple[list[int], dict[int, int], int]]]

BLANKS = b" \t\r\n"


def is_valid(subject: bytes) -> bool:
    """Whether a client may subscribe to it."""
    tokens = subject.split(b".")
    return all(tokens) and b">" not in tokens[:-1] and not any(byte in BLANKS for byte in subject)


def is_literal(subject: bytes) -> bool:
    """Whether it is valid and names exactly one subject."""
    return is_valid(subject) and not {b"*", b">"} & set(subject.split(b"."))


def matches(pattern: bytes, literal: bytes) -> bool:
    """Whether a message published to `literal` reaches a subscription to `pattern`."""
    wanted, tokens = pattern.split(b"."), literal.split(b".")
    if not all(tokens) or not is_valid(pattern):
        return False
    if wanted[-1] == b">":
        wanted.pop()
        if len(tokens) <= len(wanted):
            return False
        tokens = tokens[: len(wanted)]
    return len(wanted) == len(tokens) and all(
        one in (b"*", token) for one, token in zip(wanted, tokens, strict=True)
    )


@dataclass
class SublistOracle:
    """What an index must answer."""

    subscriptions: dict[int, Key] = field(default_factory=dict)
    remote: dict[tuple[int, Key], int] = field(default_factory=dict)
    announced: dict[Key, int] = field(default_factory=dict)

    def match(self, account: int, subject: bytes) -> MatchData:
        """Who gets a message."""
        plain: list[int] = []
        processes = 0
        members: dict[bytes, list[int]] = {}
        weights: dict[bytes, Counter[int]] = {}
        for handle, (owner, pattern, queue) in self.subscriptions.items():
            if owner != account or not matches(pattern, subject):
                continue
            if queue is None:
                plain.append(handle)
            else:
                members.setdefault(queue, []).append(handle)
        for (process, (owner, pattern, queue)), count in self.remote.items():
            if owner != account or not matches(pattern, subject):
                continue
            if queue is None:
                processes |= 1 << process
            else:
                weights.setdefault(queue, Counter())[process] += count
        groups = {}
        for name in members.keys() | weights.keys():
            local, others = sorted(members.get(name, [])), dict(weights.get(name, {}))
            groups[name] = (local, others, len(local) + sum(others.values()))
        return sorted(plain), processes, groups

    def local_counts(self) -> dict[Key, int]:
        """What the other processes should know."""
        counts = Counter(self.subscriptions.values())
        return {key: 1 if key[2] is None else count for key, count in counts.items()}

    def take_changes(self) -> dict[Key, int]:
        """What the others do not know yet; now they do."""
        counts = self.local_counts()
        changes = {
            key: counts.get(key, 0)
            for key in counts.keys() | self.announced.keys()
            if counts.get(key, 0) != self.announced.get(key, 0)
        }
        self.announced = counts
        return changes

    def set_remote(self, process: int, key: Key, count: int) -> None:
        """What another process wants."""
        if count and is_valid(key[1]):
            self.remote[process, key] = count
        else:
            self.remote.pop((process, key), None)

    def drop_process(self, process: int) -> None:
        """Another process has gone."""
        self.remote = {key: count for key, count in self.remote.items() if key[0] != process}
