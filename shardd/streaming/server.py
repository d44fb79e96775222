"""One worker of a streaming server: everything but sockets, files, clocks and chance.

Messages come from the bus to the receiver, which deals with publishes and acks itself and hands the
rest to `take`. A driver makes passes:

    server.begin_pass(now_ms, now_ns)      the clock of everything that follows
    ...                                    the bus hands over what arrived
    server.end_pass()                      deliveries, acks, a commit if there is something

and one more whenever `on_wake` is called (a commit ended, a log has loaded something), when the bus
has room again, and at `next_deadline_ms` (`tick`, then `end_pass`).
"""

from collections.abc import Callable
from typing import Any, Final

from shardd.config.streaming import StreamingOptions
from shardd.streaming import texts
from shardd.streaming.admin import PREFIX as ADMIN_PREFIX
from shardd.streaming.admin import Admin
from shardd.streaming.burial import Burial
from shardd.streaming.bus import Bus
from shardd.streaming.channel import Channel
from shardd.streaming.channels import Channels
from shardd.streaming.connecting import Connecting
from shardd.streaming.core import Core
from shardd.streaming.followers import Followers
from shardd.streaming.inquiries import Inquiries
from shardd.streaming.limits_of import LimitsOf
from shardd.streaming.membership import Membership
from shardd.streaming.messages import ConnectRequest
from shardd.streaming.receiver import (
    ACKS,
    ADMIN,
    CLOSE,
    DISCOVER,
    FT,
    INQUIRY,
    PINGS,
    POOL,
    POOL_ALL,
    POOL_FT,
    PUBLISH,
    SUB_CLOSE,
    SUBSCRIBE,
    UNSUBSCRIBE,
)
from shardd.streaming.recovery import Recovery, server_row
from shardd.streaming.store import Recovered, Store
from shardd.streaming.subscribing import Subscribing

# How long another server with the same cluster id has to show itself (sheet 10).
ALONE_MS: Final = 250


class StreamingServer:
    """One streaming worker. Belongs to one event loop.

    Args:
        options: the whole configuration of streaming.
        store: opened for the parts of this worker.
        bus: its way to NATS; its receiver becomes the server's.
        index, workers: which of how many workers this is. Number 0 is the lead.
        seed: what the names of ack inboxes are made of, if the store has none yet.

    Raises:
        ConfigError: limits of channels that cannot be.
    """

    def __init__(
        self,
        options: StreamingOptions,
        store: Store,
        bus: Bus,
        index: int = 0,
        workers: int = 1,
        seed: bytes = b"",
    ) -> None:
        core = self.core = Core(options, store, bus, index, workers)
        self.channels = Channels(core, LimitsOf(options.limits))
        self.subscribing = Subscribing(core, self.channels)
        self._seed = seed
        self._inquiries = Inquiries(core)
        self._followers = Followers(core)
        self._connecting = Connecting(core, self.subscribing, self._inquiries, self._followers)
        self._burial = Burial(core, self.channels)
        self._membership = Membership(
            core, self.channels, self._connecting, self._followers, self._burial
        )
        self._admin = Admin(core, self.channels, self.subscribing)
        self._recovery = Recovery(core, self.channels, self.subscribing)
        self._recovered: Recovered | None = None
        self._on_ready: Callable[[str], object] | None = None
        # Called with the sid and payload of what servers of a fault-tolerance group say.
        self.on_group: Callable[[int, bytes], object] | None = None
        core.on_committed = self.channels.watch_age
        core.traffic.group_in_flight_max = options.group_in_flight_max
        core.receiver.server = self
        core.receiver.is_strict = options.strict_subjects or options.channel_permissions
        bus.receiver = core.receiver

    @property
    def on_wake(self) -> Callable[[], object] | None:
        """Called without arguments when a pass is needed although nothing arrived."""
        return self.core.on_wake

    @on_wake.setter
    def on_wake(self, callback: Callable[[], object] | None) -> None:
        self.core.on_wake = callback

    # --- start -----------------------------------------------------------------------------------

    def start(
        self, recovered: Recovered, now_ms: int, now_ns: int, on_ready: Callable[[str], object]
    ) -> None:
        """Begins to serve what the store held. `on_ready` is called once: with "" when every
        subject is listened to, or with the reason why this server must not run.

        Raises:
            StoreError: the store is another cluster's.
        """
        core = self.core
        self.begin_pass(now_ms, now_ns)
        core.started_ns = core.started_ns or now_ns
        self._recovered = recovered
        self._on_ready = on_ready
        if core.is_lead:
            core.row = server_row(core, recovered, self._seed)
            for row in recovered.clients:
                self._connecting.recover(row)
        self._membership.join(self._on_known)
        self.end_pass()

    def _on_known(self) -> None:
        """The server and its clients are known."""
        core = self.core
        assert self._recovered is not None
        core.receiver.set_prefix(len(core.subjects.pub) + 1)
        self._recovery.take_up(self._recovered, self._membership.closed_meanwhile)
        self._recovered = None
        if not core.is_lead:
            self._serve()
            return
        core.bus.subscribe(INQUIRY, core.server_row.inbox_prefix + b".hb.*")
        # Servers that share the channels have asked each other already, and of those that share
        # the store only one serves.
        is_shared = core.options.partitioning or core.options.ft_group
        core.bus.flush(self._serve if is_shared else self._ask_who_else)

    def _ask_who_else(self) -> None:
        """A request without a heartbeat inbox is answered by any server, and changes nothing."""
        question = ConnectRequest(client_id=self.core.options.cluster_id).encode()
        self._inquiries.ask(self.core.subjects.discover, ALONE_MS, self._asked, question)
        self._wake()

    def _asked(self, is_answered: bool) -> None:
        if is_answered:
            self._tell(texts.SECOND_SERVER.format(cluster=self.core.options.cluster_id))
        else:
            self._serve()

    def _serve(self) -> None:
        core = self.core
        subjects = core.subjects
        bus = core.bus
        bus.subscribe(PUBLISH, subjects.pub + b".>")
        bus.subscribe(SUBSCRIBE, subjects.sub)
        bus.subscribe(UNSUBSCRIBE, subjects.unsub)
        bus.subscribe(SUB_CLOSE, subjects.sub_close)
        bus.subscribe(CLOSE, subjects.close)
        for part in sorted(core.parts):
            bus.subscribe(ACKS + part, b"%b.%d.*" % (core.server_row.inbox_prefix, part))
        if core.options.admin:
            bus.subscribe(ADMIN, ADMIN_PREFIX + core.options.cluster_id.encode())
        if core.is_lead:
            bus.subscribe(DISCOVER, subjects.discover)
            bus.subscribe(PINGS, subjects.pings)
        bus.flush(self._serving)

    def _serving(self) -> None:
        self._recovery.start()
        self._membership.announce()
        self._tell("")
        self._wake()

    def _tell(self, error: str) -> None:
        if self._on_ready is not None:
            on_ready, self._on_ready = self._on_ready, None
            on_ready(error)

    def _wake(self) -> None:
        if self.core.on_wake is not None:
            self.core.on_wake()

    # --- passes ----------------------------------------------------------------------------------

    def begin_pass(self, now_ms: int, now_ns: int) -> None:
        """The clocks, until the next pass: a monotonic one, and unix time."""
        self.core.traffic.now_ms = now_ms
        self.core.traffic.now_ns = now_ns

    def end_pass(self) -> None:
        """Everything that arrived has been handed over."""
        self.core.end_pass()

    def tick(self, now_ms: int, now_ns: int) -> None:
        """Begins a pass with what is due by now."""
        self.begin_pass(now_ms, now_ns)
        self.core.schedule.run(now_ms)

    def next_deadline_ms(self) -> int | None:
        """When `tick` has something to do; None: only when something arrives."""
        return self.core.next_ms()

    def stop(self) -> None:
        """Queues what the store does not know yet, before it is closed."""
        self.core.save_positions()

    def manage(self, request: Any, respond: Callable[[dict[str, Any]], object]) -> bool:
        """A request of the operator (`admin`), which needs no configuration. False when another
        worker is to be asked; else `respond` is called with the answer, now or later."""
        is_ours = self._admin.answer(request, respond)
        self._wake()
        return is_ours

    def lose(self, worker: int) -> None:
        """The process of another worker has ended; nobody waits for it any more."""
        self._membership.lose(worker)

    # --- what the receiver asks for --------------------------------------------------------------

    def take(self, sid: int, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        """A message that is neither a publish nor an ack."""
        if sid == DISCOVER:
            self._connecting.connect(payload, reply)
        elif sid == PINGS:
            self._connecting.ping(payload, reply)
        elif sid == SUBSCRIBE:
            self.subscribing.subscribe(payload, reply)
        elif sid in {UNSUBSCRIBE, SUB_CLOSE}:
            self.subscribing.unsubscribe(payload, reply, sid == UNSUBSCRIBE)
        elif sid == CLOSE:
            self._connecting.close(payload, reply)
        elif sid == INQUIRY:
            self._inquiries.take(subject, header)
        elif sid in {POOL, POOL_ALL}:
            self._membership.take(payload)
        elif sid == ADMIN:
            self._admin.take(payload, reply)
        elif sid in {FT, POOL_FT} and self.on_group is not None:
            self.on_group(sid, payload)

    def channel_for(self, name: bytes) -> Channel | str:
        """A publish names a channel that is not there yet."""
        return self.channels.get_or_create(name)

    def pass_on(self, channel: bytes, reply: bytes, payload: bytes) -> None:
        """A publish belongs to another worker."""
        self._membership.pass_on(channel, reply, payload)
