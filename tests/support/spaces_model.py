"""Accounts in a few lines of plain Python: who gets what, read off the meaning and not off indexes.

A message that is published in an account reaches its subscriptions there, under each account that
imports the stream its subscriptions under the importer's subject, and by each imported service the
exporting account, in which the same holds again.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from shardd.config import model

DEPTH_MAX = 40  # far more than accounts that a test has


@dataclass(eq=False)
class Sub:
    """One subscription."""

    account: str
    client: str
    sid: bytes
    pattern: str
    queue: str | None = None
    left: int = 1 << 60


@dataclass(frozen=True)
class Got:
    """One delivery: to whom, under which subject, and whether with a reply."""

    client: str
    sid: bytes
    subject: str
    is_asked: bool


@dataclass
class Expected:
    """What one message does: certain deliveries, and groups of which one member gets it."""

    plain: Counter[Got] = field(default_factory=Counter)
    groups: list[set[Got]] = field(default_factory=list)


class SpacesModel:
    """Some accounts, and who has subscribed in them."""

    def __init__(self, accounts: tuple[model.Account, ...]) -> None:
        self._accounts = {account.name: account for account in accounts}
        self.subs: list[Sub] = []

    def publish(self, account: str, subject: str, is_asked: bool = False) -> Expected:
        """A message of a client."""
        expected = Expected()
        self._publish(account, subject, is_asked, expected, 0)
        return expected

    def respond(self, account: str, subject: str) -> Expected:
        """A response that arrives in the account that asked: no mapping, no service."""
        expected = Expected()
        self._deliver(account, subject, False, expected)
        return expected

    def _publish(
        self, account: str, subject: str, is_asked: bool, expected: Expected, depth: int
    ) -> None:
        assert depth < DEPTH_MAX
        subject = self._mapped(account, subject)
        self._deliver(account, subject, is_asked, expected)
        for each in self._imports(account):
            if isinstance(each, model.ServiceImport):
                there = translated(each.to or each.subject, each.subject, subject)
                if there is not None:
                    self._publish(each.account, there, is_asked, expected, depth + 1)

    def _deliver(self, account: str, subject: str, is_asked: bool, expected: Expected) -> None:
        groups: dict[str, set[Got]] = {}
        for sub, local in self._takers(account, subject):
            got = Got(sub.client, sub.sid, local, is_asked)
            if sub.queue is None:
                expected.plain[got] += 1
            else:
                groups.setdefault(sub.queue, set()).add(got)
        expected.groups += groups.values()

    def _takers(self, account: str, subject: str) -> Iterator[tuple[Sub, str]]:
        """Subscriptions that match, each with the subject it knows the message under."""
        for sub in self.subs:
            if sub.account == account and matches(sub.pattern, subject):
                yield sub, subject
            for each in self._imports(sub.account):
                if isinstance(each, model.StreamImport) and each.account == account:
                    local = translated(each.subject, local_name(each), subject)
                    if local is not None and matches(sub.pattern, local):
                        yield sub, local

    def _imports(self, account: str) -> tuple[model.StreamImport | model.ServiceImport, ...]:
        return self._accounts[account].imports

    def _mapped(self, account: str, subject: str) -> str:
        """Literal sources come before patterns, patterns in the order of the file."""
        mappings = self._accounts[account].mappings
        for is_pattern in (False, True):
            for mapping in mappings:
                if ("*" in mapping.source or ">" in mapping.source) is not is_pattern:
                    continue
                (one,) = mapping.destinations
                there = translated(mapping.source, one.subject, subject)
                if there is not None:
                    return there
        return subject


def local_name(each: model.StreamImport) -> str:
    """What an imported stream is called by its importer."""
    return each.to or (f"{each.prefix}.{each.subject}" if each.prefix else each.subject)


def matches(pattern: str, subject: str) -> bool:
    return captured(pattern, subject) is not None


def captured(pattern: str, subject: str) -> tuple[dict[int, str], list[str]] | None:
    """What each wildcard of a pattern stands for, `$2` by its number, `*` by its turn; and what
    `>` does."""
    words, tokens = pattern.split("."), subject.split(".")
    found: dict[int, str] = {}
    turn = 0
    for index, word in enumerate(words):
        if index >= len(tokens):
            return None
        if word == ">":
            return found, tokens[index:]
        if word == "*":
            turn += 1
            found[turn] = tokens[index]
        elif word.startswith("$"):
            found[int(word[1:])] = tokens[index]
        elif word != tokens[index]:
            return None
    return (found, []) if len(words) == len(tokens) else None


def translated(source: str, destination: str, subject: str) -> str | None:
    """A subject of the source as one of the destination; None when it is none of the source."""
    parts = captured(source, subject)
    if parts is None:
        return None
    found, rest = parts
    tokens: list[str] = []
    turn = 0
    for word in destination.split("."):
        if word == "*":
            turn += 1
            tokens.append(found[turn])
        elif word.startswith("$"):
            tokens.append(found[int(word[1:])])
        elif word == ">":
            tokens += rest
        else:
            tokens.append(word)
    return ".".join(tokens)
