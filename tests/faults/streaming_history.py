"""What publishers and subscribers of one channel went through, and whether that was allowed.

A history is a list of events in the order in which one process saw them. `check` is pure: events
in, a line for each rule that was broken out. The rules hold while servers are killed at any time:

- what a publisher was told is stored, is in the channel; what was refused is not;
- sequences start at 1, without gap; one message has one sequence and keeps it;
- the messages of one publisher are stored in the order in which it sent them;
- a subscriber gets new messages in order; a kill may set it back once;
- every stored message is delivered until it is acknowledged, over all ends and new beginnings of
  a durable subscription or a durable queue group;
- what was acknowledged before a close that was answered is never delivered again.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sent:
    """A publisher sent a message; bodies are unique."""

    publisher: str
    body: str


@dataclass(frozen=True, slots=True)
class Stored:
    """Its acknowledgement said that it is stored."""

    body: str


@dataclass(frozen=True, slots=True)
class Refused:
    """Its acknowledgement was an error."""

    body: str


@dataclass(frozen=True, slots=True)
class Delivered:
    """A subscriber got a message. `life` counts the beginnings of a subscription: a durable, or a
    group with several members."""

    subscription: str
    life: int
    member: str
    sequence: int
    body: str
    is_redelivery: bool = False


@dataclass(frozen=True, slots=True)
class Acked:
    """A subscriber sent an ack."""

    subscription: str
    life: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Closed:
    """The close of a subscription was answered: of all its members, for a group."""

    subscription: str
    life: int


@dataclass(frozen=True, slots=True)
class Read:
    """What the channel held in the end, in the order of delivery."""

    sequence: int
    body: str


@dataclass(frozen=True, slots=True)
class Killed:
    """A process of the server is killed now."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """Every client has reached the server again after a kill."""


Event = Sent | Stored | Refused | Delivered | Acked | Closed | Read | Killed | Recovered
History = Sequence[Event]


def check(history: History, *, keeps_positions: bool = True) -> list[str]:
    """One line for each thing that must not be.

    `keeps_positions` is False for the original: in one of two runs it sent a queue group again what
    had been acknowledged before a close that it had answered, with no kill since. Why is not known.
    """
    rules = [contents, sequences, publisher_order, delivery_order, at_least_once]
    rules += [positions] if keeps_positions else []
    return [f"{rule.__name__}: {problem}" for rule in rules for problem in rule(history)]


def contents(history: History) -> Iterator[str]:
    """Everything acknowledged is there, and nothing else than what was sent."""
    read = {event.body for event in history if isinstance(event, Read)}
    sent = {event.body for event in history if isinstance(event, Sent)}
    for event in history:
        match event:
            case Stored(body) if body not in read:
                yield f"{body} was acknowledged and is lost"
            case Refused(body) if body in read:
                yield f"{body} was refused and is there"
            case Delivered(body=body) | Read(body=body) if body not in sent:
                yield f"{body} was never sent"


def sequences(history: History) -> Iterator[str]:
    """No gap, no sequence for two messages, no message with two sequences."""
    bodies: dict[int, str] = {}
    places: dict[str, int] = {}
    for event in history:
        if isinstance(event, Delivered | Read):
            known = bodies.setdefault(event.sequence, event.body)
            if known != event.body:
                yield f"{event.sequence} was {known} and then {event.body}"
            place = places.setdefault(event.body, event.sequence)
            if place != event.sequence:
                yield f"{event.body} was at {place} and then at {event.sequence}"
    read = [event.sequence for event in history if isinstance(event, Read)]
    for expected, sequence in enumerate(read, 1):
        if sequence != expected:
            yield f"read {sequence} where {expected} was due"
            break
    if bodies and max(bodies) > len(read):
        yield f"{max(bodies)} was delivered and {len(read)} is the last"


def publisher_order(history: History) -> Iterator[str]:
    """What one publisher sent is stored in its order."""
    sent: dict[str, tuple[str, int]] = {}
    counts: dict[str, int] = defaultdict(int)
    last: dict[str, int] = defaultdict(int)
    for event in history:
        if isinstance(event, Sent):
            counts[event.publisher] += 1
            sent[event.body] = event.publisher, counts[event.publisher]
    for event in history:
        if isinstance(event, Read) and event.body in sent:
            publisher, number = sent[event.body]
            if number < last[publisher]:
                yield f"{event.body} is behind what was sent after it"
            last[publisher] = max(number, last[publisher])


def delivery_order(history: History) -> Iterator[str]:
    """New messages come in order; each kill may set a subscriber back once."""
    kills = 0
    last: dict[tuple[str, int, str], int] = defaultdict(int)
    allowed: dict[tuple[str, int, str], int] = {}
    for event in history:
        if isinstance(event, Killed):
            kills += 1
            for who in allowed:
                allowed[who] += 1
        elif isinstance(event, Delivered) and not event.is_redelivery:
            who = event.subscription, event.life, event.member
            # A kill shortly before its beginning may set it back too.
            allowed.setdefault(who, min(kills, 1))
            if event.sequence <= last[who]:
                allowed[who] -= 1
                if allowed[who] < 0:
                    yield f"{who} got {event.sequence} as new after {last[who]}"
            last[who] = event.sequence


def at_least_once(history: History) -> Iterator[str]:
    """Every subscription has acknowledged every message, which it cannot without a delivery."""
    delivered: dict[str, set[int]] = defaultdict(set)
    acked: dict[str, set[int]] = defaultdict(set)
    for event in history:
        if isinstance(event, Delivered):
            delivered[event.subscription].add(event.sequence)
        elif isinstance(event, Acked):
            acked[event.subscription].add(event.sequence)
    for event in history:
        if isinstance(event, Read):
            for subscription, seen in delivered.items():
                if event.sequence not in seen:
                    yield f"{subscription} never got {event.sequence}"
                elif event.sequence not in acked[subscription]:
                    yield f"{subscription} did not acknowledge {event.sequence}; it did not return"


def positions(history: History) -> Iterator[str]:
    """What was acknowledged, with no kill in between, before a close, is done with.

    An ack that was sent while processes were being killed may have been lost on its way.
    """
    calm: dict[str, set[int]] = defaultdict(set)  # acked since the last recovery
    done: dict[str, dict[int, int]] = defaultdict(dict)  # sequence to the life that ended it
    is_calm = True
    for event in history:
        match event:
            case Killed():
                calm.clear()
                is_calm = False
            case Recovered():
                is_calm = True
            case Acked(subscription, _, sequence) if is_calm:
                calm[subscription].add(sequence)
            case Closed(subscription, life) if is_calm:
                for sequence in calm.pop(subscription, ()):
                    done[subscription].setdefault(sequence, life)
            case Delivered(subscription, life, _, sequence):
                if life > done[subscription].get(sequence, life):
                    yield f"{subscription} got {sequence} again after a close that covered it"
