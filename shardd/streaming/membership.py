"""One worker among the workers of its pool: what it hears from the others, and what that changes.

A follower serves nobody before the lead has told it who is a client. Should the lead be replaced,
its followers go on and are told again.
"""

import logging
from collections.abc import Callable

from shardd.streaming import pool
from shardd.streaming.burial import Burial
from shardd.streaming.channels import Channels
from shardd.streaming.clients import Client
from shardd.streaming.connecting import Connecting
from shardd.streaming.core import Core
from shardd.streaming.followers import Followers
from shardd.streaming.receiver import POOL, POOL_ALL, POOL_PUBLISH
from shardd.streaming.schedule import Timer
from shardd.streaming.store import ClientRow, ServerRow
from shardd.streaming.subjects import partition_of

log = logging.getLogger("shardd.streaming")


class Membership:
    """This worker's part in the pool. `on_known` is called when it knows server and clients for
    the first time, at a follower."""

    def __init__(
        self,
        core: Core,
        channels: Channels,
        connecting: Connecting,
        followers: Followers,
        burial: Burial,
    ) -> None:
        self._core = core
        self._channels = channels
        self._connecting = connecting
        self._followers = followers
        self._burial = burial
        self._on_known: Callable[[], object] | None = None
        self._hello: Timer | None = None
        self._told: dict[str, pool.ClientFacts] = {}  # by a snapshot that is not complete
        self._closed: set[str] = set()
        if core.workers > 1:
            channels.on_names = self._tell_names

    def join(self, on_known: Callable[[], object]) -> None:
        """Listens to the others; a follower then asks the lead."""
        core = self._core
        self._on_known = on_known
        if core.workers > 1:
            core.bus.subscribe(POOL, pool.subject_of(core.index))
            core.bus.subscribe(POOL_ALL, pool.ALL)
            core.bus.subscribe(POOL_PUBLISH, pool.publish_subject_of(core.index))
        if core.is_lead:
            on_known()
        else:
            core.bus.flush(self._say_hello)

    def announce(self) -> None:
        """This worker serves: the others tell it what they have, and hear what it has."""
        core = self._core
        if core.workers == 1:
            return
        if core.is_lead:
            self._send(pool.ALL, pool.LeadUp(core.index))
        self._tell_all_names(pool.ALL, wants_answer=True)

    def lose(self, worker: int) -> None:
        """Another worker's process has ended."""
        if self._core.is_lead:
            self._followers.lose(worker)

    def pass_on(self, channel: bytes, reply: bytes, payload: bytes) -> None:
        """A publish that came here by its NATS subject belongs to another worker by its channel."""
        owner = partition_of(channel) % self._core.workers
        self._core.bus.send(pool.publish_subject_of(owner), payload, reply)

    def take(self, payload: bytes) -> None:
        """A message of another worker."""
        message = pool.decode(payload)
        match message:
            case pool.ChannelNames():
                self._channels.learn(message.worker, message.added, message.removed, message.is_all)
                if message.wants_answer:
                    self._tell_all_names(pool.subject_of(message.worker), wants_answer=False)
            case pool.Bury():
                self._burial.bury(message)
            case pool.Buried():
                self._burial.buried(message)
            case _ if self._core.is_lead:
                self._take_as_lead(message)
            case _:
                self._take_as_follower(message)

    # --- at the lead -----------------------------------------------------------------------------

    def _take_as_lead(self, message: pool.Message) -> None:
        match message:
            case pool.Hello():
                self._followers.welcome(message.worker)
            case pool.Done():
                self._followers.heard(message)

    # --- at a follower ---------------------------------------------------------------------------

    def _say_hello(self) -> None:
        core = self._core
        self._send(pool.subject_of(pool.LEAD), pool.Hello(core.index))
        self._hello = core.schedule.at(core.now_ms + pool.HELLO_MS, self._say_hello)
        if core.on_wake is not None:
            core.on_wake()

    def _take_as_follower(self, message: pool.Message) -> None:
        core = self._core
        match message:
            case pool.LeadUp():
                if core.row is not None:
                    self._send(pool.subject_of(pool.LEAD), pool.Hello(core.index))
            case pool.Snapshot():
                self._take_snapshot(message)
            case pool.ClientAdded() if core.row is not None:
                self._add(pool.ClientFacts(*message.client))
                self._followers.done("added", pool.ClientFacts(*message.client).number)
            case pool.ClientClosed() | pool.ClientFailing() if core.row is not None:
                client = core.clients.find(message.client_id)
                if client is None or client.number != message.number:
                    return
                if isinstance(message, pool.ClientFailing):
                    client.set_failing(message.is_failing)
                else:
                    self._connecting.end(client, is_told=True)

    def _take_snapshot(self, message: pool.Snapshot) -> None:
        core = self._core
        if message.is_first:
            self._told = {}
            self._closed = set(message.closed)
        for fields in message.clients:
            facts = pool.ClientFacts(*fields)
            self._told[facts.client_id] = facts
        if not message.is_last:
            return
        if self._hello is not None:
            self._hello.cancel()
            self._hello = None
        is_new = core.row is None
        core.row = ServerRow(*message.server)
        for client in list(core.clients):
            facts_of_client = self._told.get(client.row.client_id)
            if facts_of_client is None or _row_of(facts_of_client) != client.row:
                self._connecting.end(client, is_told=True)
        for facts in self._told.values():
            self._add(facts)
        self._told = {}
        if is_new and self._on_known is not None:
            self._on_known()

    @property
    def closed_meanwhile(self) -> set[str]:
        """Clients that ended while this worker was away: subscriptions of theirs that the store
        still has belong to a connection that is gone, whoever has the id now."""
        return self._closed

    def _add(self, facts: pool.ClientFacts) -> None:
        clients = self._core.clients
        client: Client | None = clients.find(facts.client_id)
        row = _row_of(facts)
        if client is not None and client.row != row:
            self._connecting.end(client, is_told=True)
            client = None
        if client is None:
            client = clients.add(row, facts.number)
        client.number = facts.number
        client.set_failing(facts.is_failing)

    # --- names of channels -----------------------------------------------------------------------

    def _tell_names(self, added: tuple[bytes, ...], removed: tuple[bytes, ...]) -> None:
        self._send(
            pool.ALL,
            pool.ChannelNames(self._core.index, added, removed, is_all=False, wants_answer=False),
        )

    def _tell_all_names(self, subject: bytes, wants_answer: bool) -> None:
        names = list(self._core.channels)
        for start in range(0, max(len(names), 1), pool.ENTRIES_MAX):
            part = tuple(names[start : start + pool.ENTRIES_MAX])
            is_first = start == 0
            self._send(
                subject,
                pool.ChannelNames(self._core.index, part, (), is_first, wants_answer and is_first),
            )

    def _send(self, subject: bytes, message: pool.Message) -> None:
        self._core.bus.send(subject, pool.encode(message))


def _row_of(facts: pool.ClientFacts) -> ClientRow:
    return ClientRow(
        client_id=facts.client_id,
        heartbeat_inbox=facts.heartbeat_inbox,
        connection_id=facts.connection_id,
        protocol=facts.protocol,
        ping_interval_s=facts.ping_interval_s,
        ping_max_out=facts.ping_max_out,
    )
