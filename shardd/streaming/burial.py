"""Messages that were sent as often as they may be: to the dead-letter channel, or away.

Off unless configured. A message counts as acknowledged once it is stored in the dead-letter
channel, not before: until then it stays in flight, and is buried again after another ack wait.
"""

import logging

from shardd.errors import StoreError
from shardd.streaming import pool
from shardd.streaming.channel import Channel
from shardd.streaming.channels import Channels
from shardd.streaming.commit_batch import append_to
from shardd.streaming.core import Core
from shardd.streaming.subjects import is_channel, partition_of, shown
from shardd.streaming.subscription import Subscription

log = logging.getLogger("shardd.streaming")


class Burial:
    """What one worker does with them, with its own and with those of other workers."""

    def __init__(self, core: Core, channels: Channels) -> None:
        self._core = core
        self._channels = channels
        options = core.options
        self._name = options.dead_letter_channel.encode()
        if self._name and not is_channel(self._name):
            raise ValueError(f"{options.dead_letter_channel!r} is no name of a channel")
        core.traffic.redeliveries_max = options.redeliveries_max
        core.traffic.on_exhausted = self._exhausted

    def _exhausted(
        self,
        channel: Channel,
        subscription: Subscription,
        sequence: int,
        reply: bytes,
        data: bytes,
    ) -> None:
        core = self._core
        if not self._name or channel.name == self._name:
            log.warning(
                "channel %s: message %d was sent to client %s as often as it may be: dropped",
                shown(channel.name),
                sequence,
                subscription.client_id,
            )
            channel.acknowledge(subscription, sequence)
            return
        message = pool.Bury(core.index, channel.name, subscription.id, sequence, reply, data)
        owner = partition_of(self._name) % core.workers
        if owner == core.index:
            self.bury(message)
        else:
            core.bus.send(pool.subject_of(owner), pool.encode(message))

    def bury(self, message: pool.Bury) -> None:
        """Into the dead-letter channel, which is this worker's."""
        core = self._core
        channel = self._channels.get_or_create(self._name)
        if isinstance(channel, str):
            log.error("dead-letter channel %s: %s", shown(self._name), channel)
            return
        failures = channel.failures
        try:
            append_to(core.receiver.batch, channel, message.reply, message.data)
        except StoreError as error:
            log.error("dead-letter channel %s: %s", shown(self._name), error)
            return
        done = pool.Buried(message.channel, message.subscription, message.sequence)

        def stored(_error: str) -> None:
            # A commit that failed has taken it back, whatever else it wrote.
            if channel.failures != failures:
                return
            if message.worker == core.index:
                self.buried(done)
            else:
                core.bus.send(pool.subject_of(message.worker), pool.encode(done))

        core.after_commit(stored)

    def buried(self, message: pool.Buried) -> None:
        """It is stored: as if the subscriber had acknowledged it."""
        channel = self._core.channels.get(message.channel)
        subscription = channel and channel.subscriptions.get(message.subscription)
        if channel is not None and subscription is not None:
            channel.acknowledge(subscription, message.sequence)
