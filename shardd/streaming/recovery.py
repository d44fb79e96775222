"""A streaming worker takes up what its store held: channels, subscriptions, what was in flight.

Nothing is asked of clients: those that were connected still are, their inboxes and ack inboxes are
the same (sheet 9). A subscription whose client is none any more ends as if it had been closed.
"""

import hashlib
import logging
from collections.abc import Collection

from shardd.errors import StoreError
from shardd.streaming import texts
from shardd.streaming.channel import Channel
from shardd.streaming.channels import Channels
from shardd.streaming.core import Core
from shardd.streaming.pool import is_inbox
from shardd.streaming.store import Recovered, RecoveredChannel, ServerRow
from shardd.streaming.subjects import partition_of, shown, subjects_of
from shardd.streaming.subscribing import Subscribing
from shardd.streaming.subscription import Subscription

log = logging.getLogger("shardd.streaming")


def server_row(core: Core, recovered: Recovered, seed: bytes) -> ServerRow:
    """Who the server is: as the store has it, or new, with a place for acks made of the seed.

    Raises:
        StoreError: the store belongs to a server with another cluster id.
    """
    cluster_id = core.options.cluster_id
    row = recovered.server
    if row is not None:
        if row.cluster_id != cluster_id:
            raise StoreError(texts.OTHER_CLUSTER.format(asked=cluster_id, stored=row.cluster_id))
        return row
    subjects = subjects_of(cluster_id, core.options.discover_prefix)
    unique = hashlib.sha256(seed).hexdigest()[:22].encode()
    row = ServerRow(
        cluster_id=cluster_id,
        discover=subjects.discover,
        pub=subjects.pub,
        sub=subjects.sub,
        unsub=subjects.unsub,
        sub_close=subjects.sub_close,
        close=subjects.close,
        inbox_prefix=b"_INBOX." + unique,
    )
    core.store.save_server(row)
    return row


class Recovery:
    """Takes up the channels of one worker, once."""

    def __init__(self, core: Core, channels: Channels, subscribing: Subscribing) -> None:
        self._core = core
        self._channels = channels
        self._subscribing = subscribing
        self._online: list[Subscription] = []

    def take_up(self, recovered: Recovered, closed: Collection[str]) -> None:
        """Everything is there afterwards, and nothing is sent before `start`.

        Args:
            closed: clients that ended while this worker was away, whoever has the id now.
        """
        self._core.last_ids.update(recovered.last_ids)
        for each in recovered.channels:
            self._take_up_channel(each, closed)

    def _take_up_channel(self, recovered: RecoveredChannel, closed: Collection[str]) -> None:
        core = self._core
        channel = self._channels.adopt(recovered.log)
        part = partition_of(channel.name)
        lost: list[Subscription] = []
        for row in sorted(recovered.subscriptions, key=lambda row: row.id):
            core.last_ids[part] = max(core.last_ids.get(part, 0), row.id)
            subscription = Subscription(core.traffic, row)
            channel.add(subscription)
            channel.expire_recovered(subscription, row.pending)
            client = core.clients.find(row.client_id)
            if subscription.is_offline:
                continue
            if (
                client is None
                or row.client_id in closed
                # Its end was on its way here when the server died, and the client is back.
                or row.owner not in {b"", client.row.heartbeat_inbox}
                or not is_inbox(row.inbox)
            ):
                lost.append(subscription)
            else:
                self._subscribing.register(subscription, client)
                self._online.append(subscription)
        self._clamp(channel)
        for subscription in lost:
            log.info(
                "channel %s: a subscription of client %s ended while it was not served",
                shown(channel.name),
                subscription.client_id,
            )
            self._subscribing.end(subscription, is_unsubscribe=False)

    def _clamp(self, channel: Channel) -> None:
        beyond = [s for s in channel.subscriptions.values() if s.last_sent > channel.log.last]
        if beyond:
            log.warning(
                "channel %s: %d subscriptions were beyond its last message %d: set back",
                shown(channel.name),
                len(beyond),
                channel.log.last,
            )
            channel.clamp()

    def start(self) -> None:
        """The worker serves: what was in flight for too long is sent again, new messages follow."""
        for subscription in self._online:
            if not subscription.is_offline:
                self._subscribing.start(subscription)
        self._online.clear()
