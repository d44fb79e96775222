"""Mappings, imported streams and imported services against a model in plain Python."""

import random
from collections import Counter
from dataclasses import replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from shardd.config import model
from shardd.router.dispatch import Dispatcher
from shardd.router.spaces import Spaces
from shardd.router.spaces_probe import SpaceProbe
from shardd.router.sublist import Sublist
from tests.support.spaces_model import Expected, Got, SpacesModel, Sub

SETTINGS = settings(deadline=None, max_examples=150)
NAMES = ("A", "B", "C")
IDS = {"$G": 0, "$SYS": 1, "A": 2, "B": 3, "C": 4}
TOKENS = ("a", "b")  # few: what is imported is also published, and subscribed to
LITERALS = st.lists(st.sampled_from(TOKENS), min_size=2, max_size=4).map(".".join)
PATTERNS = st.lists(st.sampled_from((*TOKENS, "*", "*", "*")), min_size=1, max_size=3).flatmap(
    lambda tokens: st.sampled_from((".".join(tokens), ".".join([*tokens, ">"])))
)
SUBSCRIBED = PATTERNS | st.just(">") | st.just(">")
QUEUES = st.sampled_from((None, None, "g", "h"))


@st.composite
def placeholders(draw: st.DrawFn, source: str, *, by_number: bool = True) -> str:
    """Another name for a pattern, which has all its wildcards."""
    words = source.split(".")
    count = words.count("*")
    if by_number and count and draw(st.booleans()):
        wild = [f"${number}" for number in draw(st.permutations(range(1, count + 1)))]
    else:
        wild = ["*"] * count
    tokens = list(wild)
    for literal in draw(st.lists(st.sampled_from(TOKENS), min_size=0 if tokens else 1, max_size=2)):
        tokens.insert(draw(st.integers(0, len(tokens))), literal)
    return ".".join([*tokens, ">"] if words[-1] == ">" else tokens)


@st.composite
def mapping(draw: st.DrawFn) -> model.SubjectMapping:
    source = draw(PATTERNS)
    there = draw(placeholders(source))
    if "*" in there:  # a mapping's wildcards have numbers
        number = iter(range(1, 10))
        there = ".".join(f"${next(number)}" if t == "*" else t for t in there.split("."))
    return model.SubjectMapping(source, (model.MappedDestination(there),))


@st.composite
def stream(draw: st.DrawFn, exporter: str) -> model.StreamImport:
    subject = draw(PATTERNS)
    kind = draw(st.sampled_from(("same", "prefix", "to")))
    if kind == "to":
        to = draw(placeholders(subject))
        return model.StreamImport(account=exporter, subject=subject, to=to)
    prefix = draw(st.sampled_from(TOKENS)) if kind == "prefix" else ""
    return model.StreamImport(account=exporter, subject=subject, prefix=prefix)


@st.composite
def service(draw: st.DrawFn, exporter: str) -> model.ServiceImport:
    subject = draw(PATTERNS)
    to = draw(st.just("") | placeholders(subject))
    return model.ServiceImport(account=exporter, subject=subject, to=to)


@st.composite
def accounts(draw: st.DrawFn) -> tuple[model.Account, ...]:
    """Three accounts; each imports from those before it, so nothing goes round in a circle."""
    made: list[model.Account] = []
    for index, name in enumerate(NAMES):
        imports: list[model.StreamImport | model.ServiceImport] = []
        for exporter in NAMES[:index]:
            imports += draw(st.lists(stream(exporter), max_size=2))
            imports += draw(st.lists(service(exporter), min_size=1, max_size=2))
        made.append(
            model.Account(
                name=name,
                exports=(model.StreamExport(subject=">"), model.ServiceExport(subject=">")),
                imports=tuple(imports),
                mappings=tuple(draw(st.lists(mapping(), max_size=2, unique_by=lambda m: m.source))),
            )
        )
    return tuple(made)


class World:
    """Real accounts and the model of them, with two clients in each."""

    def __init__(self, given_accounts: tuple[model.Account, ...]) -> None:
        sublist = Sublist(seed=7, cache_entries=16)
        self.dispatcher = Dispatcher(sublist, None, 0, 99)
        self.dispatcher.bind(self)
        self.spaces = Spaces(self.dispatcher, random.Random(5), b"p", secret=bytes(32))
        self.spaces.apply(given_accounts, IDS)
        self.model = SpacesModel(given_accounts)
        self.clients = {
            f"{name}{number}": SpaceProbe(self.spaces, IDS[name])
            for name in NAMES
            for number in (1, 2)
        }
        self._count = 0

    sequence = 0

    def announce(self) -> None:
        """There are no peers."""

    def subscribe(self, client: str, pattern: str, queue: str | None) -> None:
        self._count += 1
        sid = b"%d" % self._count
        self.clients[client].subscribe(sid, pattern.encode(), queue and queue.encode())
        self.model.subs.append(Sub(client[0], client, sid, pattern, queue))

    def publish(self, client: str, subject: str, reply: bytes = b"") -> tuple[int, list[bytes]]:
        """Publishes on both sides and compares; how many took it, and replies that came with it."""
        expected = self.model.publish(client[0], subject, bool(reply))
        takers = self.clients[client].publish(subject.encode(), b"x", reply)
        return takers, self.compare(expected)

    def compare(self, expected: Expected) -> list[bytes]:
        """All that has arrived is what was expected; the replies that came with it."""
        arrived: Counter[Got] = Counter()
        replies: list[bytes] = []
        for name, client in self.clients.items():
            for sid, subject, reply, _, payload in client.got:
                assert payload == b"x"
                arrived[Got(name, sid, subject.decode(), bool(reply))] += 1
                replies.append(reply)
            client.got.clear()
        rest = arrived - expected.plain
        assert not expected.plain - arrived
        assert rest.total() == len(expected.groups)
        assert is_choice(rest, expected.groups), (rest, expected.groups)
        return replies

    def close(self) -> None:
        for client in self.clients.values():
            client.close()
        self.spaces.close()
        assert self.dispatcher.sublist.subscriptions == 0


def is_choice(rest: Counter[Got], groups: list[set[Got]]) -> bool:
    """Whether the deliveries are one member of each group."""
    if not groups:
        return not rest
    first, *others = groups
    return any(is_choice(rest - Counter((each,)), others) for each in first if rest[each])


SUBS = st.lists(
    st.tuples(st.sampled_from([f"{n}{i}" for n in NAMES for i in (1, 2)]), SUBSCRIBED, QUEUES),
    min_size=1,
    max_size=8,
)
MESSAGES = st.lists(
    st.tuples(st.sampled_from([f"{n}{i}" for n in NAMES for i in (1, 2)]), LITERALS),
    min_size=1,
    max_size=8,
)


@SETTINGS
@given(accounts(), SUBS, MESSAGES)
def test_everybody_gets_what_the_model_says(given_accounts, subs, messages):
    world = World(given_accounts)
    for client, pattern, queue in subs:
        world.subscribe(client, pattern, queue)
    for client, subject in messages:
        expected = world.model.publish(client[0], subject)
        takers, _ = world.publish(client, subject)
        assert takers == expected.plain.total() + len(expected.groups)
        again, _ = world.publish(client, subject)  # from what was worked out the first time
        assert again == takers
        event("somebody took it" if takers else "nobody took it")
    world.close()


@SETTINGS
@given(accounts(), SUBS, MESSAGES)
def test_a_response_goes_back_to_who_asked_once(given_accounts, subs, messages):
    world = World(given_accounts)
    for client, pattern, _ in subs:
        world.subscribe(client, pattern, None)
    for client in world.clients:
        world.subscribe(client, f"inbox.{client}.*", None)
    for number, (client, subject) in enumerate(messages):
        inbox = f"inbox.{client}.{number}"
        _, replies = world.publish(client, subject, inbox.encode())
        own = {reply for reply in replies if reply.startswith(b"_R_.")}
        # Each request that went on into another account has a reply of its own.
        for reply in sorted(own):
            responders = [c for c in world.clients if answers(world, c, reply, inbox)]
            event("answered" if responders else "from further on")
            assert len({name[0] for name in responders}) <= 1
        world.spaces.tick(10**9 * (number + 1))
        assert world.spaces.pending() == 0
    world.close()


def answers(world: World, client: str, reply: bytes, inbox: str) -> bool:
    """Whether this client's response reaches the inbox; a second one never does."""
    world.clients[client].publish(reply, b"x")
    first = [got for probe in world.clients.values() for got in probe.got]
    for probe in world.clients.values():
        probe.got.clear()
    hits = [got for got in first if got[1] == inbox.encode()]
    if not hits:
        return False
    world.clients[client].publish(reply, b"x")
    assert not any(
        got[1] == inbox.encode() for probe in world.clients.values() for got in probe.got
    )
    for probe in world.clients.values():
        probe.got.clear()
    return True


@SETTINGS
@given(accounts(), SUBS, MESSAGES, st.integers(1, 3))
def test_a_maximum_is_one_of_all_that_arrives_imported_or_not(
    given_accounts, subs, messages, maximum
):
    world = World(given_accounts)
    for client, pattern, _ in subs:
        world.subscribe(client, pattern, None)
    for sub in world.model.subs:
        world.clients[sub.client].unsubscribe(sub.sid, maximum)
    counts: Counter[tuple[str, bytes]] = Counter()
    wanted: Counter[tuple[str, bytes]] = Counter()
    for client, subject in messages:
        expected = world.model.publish(client[0], subject)
        for got, number in expected.plain.items():
            wanted[got.client, got.sid] += number
        world.clients[client].publish(subject.encode(), b"x")
        for name, probe in world.clients.items():
            counts.update((name, got[0]) for got in probe.got)
            probe.got.clear()
    for sub in world.model.subs:
        key = (sub.client, sub.sid)
        assert counts[key] == min(wanted[key], maximum)
        assert (sub.sid in world.clients[sub.client].sids) == (wanted[key] < maximum)
    world.close()


@SETTINGS
@given(accounts(), accounts(), SUBS, MESSAGES)
def test_a_reload_is_as_if_it_had_always_been_so(old, new, subs, messages):
    world = World(old)
    for client, subject in messages:
        world.publish(client, subject)
    world.spaces.apply(new, IDS)
    world.model = SpacesModel(new)
    for client, pattern, queue in subs:
        world.subscribe(client, pattern, queue)
    for client, subject in messages:
        world.publish(client, subject)
    world.close()


WEIGHTS = st.lists(st.integers(0, 60), min_size=1, max_size=4).filter(lambda w: sum(w) <= 100)


@settings(deadline=None, max_examples=15)
@given(WEIGHTS)
def test_weights_are_shares_and_what_is_left_stays(weights):
    destinations = tuple(
        model.MappedDestination(f"to.{index}.$1", weight) for index, weight in enumerate(weights)
    )
    mapped = (model.SubjectMapping("from.*", destinations),)
    given_accounts = tuple(
        replace(model.Account(name=name), mappings=mapped if name == "A" else ()) for name in NAMES
    )
    world = World(given_accounts)
    world.subscribe("A1", ">", None)
    rounds = 2000
    for _ in range(rounds):
        world.clients["A2"].publish(b"from.x", b"x")
    counts = Counter(subject for _, subject, _, _, _ in world.clients["A1"].got)
    assert counts.total() == rounds
    for index, weight in enumerate(weights):
        share = counts[b"to.%d.x" % index] / rounds
        assert abs(share - weight / 100) < 0.06
        assert share > 0 or weight == 0 or weight < 2
    assert abs(counts[b"from.x"] / rounds - (100 - sum(weights)) / 100) < 0.06
    world.close()
