"""Requests to subscribe, to unsubscribe and to close a subscription (sheet 5, 7, 8).

They are answered by the worker that owns the channel; all others ignore them. What nobody can read
is answered by the lead.
"""

import logging
from collections.abc import Callable

from shardd.errors import StoreError
from shardd.streaming import texts
from shardd.streaming.channel import Channel
from shardd.streaming.channels import Channels
from shardd.streaming.clients import Client
from shardd.streaming.core import Core
from shardd.streaming.messages import (
    StartPosition,
    SubscriptionRequest,
    SubscriptionResponse,
    UnsubscribeRequest,
)
from shardd.streaming.pool import is_inbox
from shardd.streaming.receiver import DYNAMIC
from shardd.streaming.store import SubscriptionRow
from shardd.streaming.subjects import is_channel, partition_of, shown
from shardd.streaming.subscription import Subscription

log = logging.getLogger("shardd.streaming")


class Refused(Exception):
    """A request cannot be served; the text is what the client is told."""


class Subscribing:
    """The subscriptions of one worker."""

    def __init__(self, core: Core, channels: Channels) -> None:
        self._core = core
        self._channels = channels
        self._next_sid = DYNAMIC
        # Those whose ack inbox has a subject of its own, with the number of that subscription.
        self._foreign: dict[Subscription, int] = {}

    # --- subscribe -------------------------------------------------------------------------------

    def subscribe(self, payload: bytes, reply: bytes) -> None:
        """A SubscriptionRequest; the answer is a SubscriptionResponse."""
        core = self._core
        try:
            request = SubscriptionRequest.decode(payload)
        except ValueError:
            if core.is_lead:
                self._respond(reply, texts.INVALID_SUBSCRIPTION_REQUEST)
            return
        if partition_of(request.subject) not in core.parts:
            return
        try:
            client, channel = self._checked(request)
            undo, subscription = self._made(request, client, channel)
        except Refused as refusal:
            self._respond(reply, str(refusal))
            return
        core.after_commit(lambda error: self._stored(subscription, reply, error, undo))

    def _checked(self, request: SubscriptionRequest) -> tuple[Client, Channel]:
        """The checks of the original, in its order."""
        if not request.client_id:
            raise Refused(texts.CLIENT_ID_MISSING)
        if request.ack_wait_s <= 0:
            raise Refused(texts.INVALID_ACK_WAIT)
        if request.max_in_flight <= 0:
            raise Refused(texts.INVALID_MAX_IN_FLIGHT)
        if not StartPosition.NEW_ONLY <= request.start_position <= StartPosition.FIRST:
            raise Refused(texts.INVALID_START_POSITION)
        if not is_channel(request.subject):
            raise Refused(texts.INVALID_SUBJECT)
        client = self._core.clients.find(request.client_id)
        if client is None:
            raise Refused(texts.UNKNOWN_CLIENT)
        # Nothing could be delivered there, and what it holds might read as more than a subject.
        if not is_inbox(request.inbox):
            raise Refused(texts.INVALID_SUBSCRIPTION_REQUEST)
        channel = self._channels.get_or_create(request.subject)
        if isinstance(channel, str):
            raise Refused(channel)
        if request.queue_group and ":" in request.durable_name:
            raise Refused(texts.DURABLE_WITH_COLON)
        return client, channel

    def _made(
        self, request: SubscriptionRequest, client: Client, channel: Channel
    ) -> tuple[Callable[[], None], Subscription]:
        """The subscription, queued for the store, and how to take it back."""
        core = self._core
        remains = self._remains(request, channel)
        most = channel.limits.max_subs
        if remains is None and 0 < most <= len(channel.subscriptions):
            raise Refused(texts.TOO_MANY_SUBSCRIPTIONS)
        try:
            row = self._row(request, client, channel)
        except StoreError as error:
            log.error("channel %s: %s", shown(channel.name), error)
            raise Refused(str(error)) from None
        subscription = Subscription(core.traffic, row)
        if remains is None:
            channel.add(subscription)
        else:
            channel.replace(remains, subscription)
            core.store.forget_subscription(channel.name, remains.id)
        self.register(subscription, client)
        core.store.save_subscription(channel.name, subscription.row())
        if subscription.group is not None:
            # Its row tells how far the group is: what the others have in flight goes with it, or
            # is lost should the process die before their positions are saved.
            core.save_positions()
        is_new = remains is None
        return lambda: self.end(subscription, is_unsubscribe=is_new), subscription

    def _remains(self, request: SubscriptionRequest, channel: Channel) -> Subscription | None:
        """The offline durable, or durable queue group, that the request goes on with."""
        if not request.durable_name:
            return None
        if request.queue_group:
            name = f"{request.durable_name}:{request.queue_group}"
            group = channel.groups.get((name, True))
            return None if group is None else group.remains
        current = channel.durables.get((request.client_id, request.durable_name))
        if current is not None and not current.is_offline:
            if not self._core.options.replace_durable:
                raise Refused(texts.DUPLICATE_DURABLE)
            self.end(current, is_unsubscribe=False)
        return current

    def _row(
        self, request: SubscriptionRequest, client: Client, channel: Channel
    ) -> SubscriptionRow:
        core = self._core
        part = partition_of(channel.name)
        number = core.last_ids.get(part, 0) + 1
        core.last_ids[part] = number
        group = request.queue_group
        if group and request.durable_name:
            group = f"{request.durable_name}:{group}"
        return SubscriptionRow(
            id=number,
            client_id=request.client_id,
            inbox=request.inbox,
            ack_inbox=b"%b.%d.%d" % (core.server_row.inbox_prefix, part, number),
            max_in_flight=request.max_in_flight,
            ack_wait_s=request.ack_wait_s,
            durable_name="" if group else request.durable_name,
            queue_group=group,
            last_sent=self._start(request, channel) - 1,
            is_durable=bool(request.durable_name),
            owner=client.row.heartbeat_inbox,
        )

    def _start(self, request: SubscriptionRequest, channel: Channel) -> int:
        """The sequence that a new subscription is sent first (sheet 5). What was appended before
        the request came counts, committed or not."""
        log = channel.log
        match request.start_position:
            case StartPosition.FIRST:
                return log.first
            case StartPosition.LAST_RECEIVED:
                return max(log.appended, log.first)
            case StartPosition.SEQUENCE:
                return min(max(request.start_sequence, log.first), log.appended + 1)
            case StartPosition.TIME_DELTA if request.start_time_delta_ns >= 0:
                start_ns = self._core.traffic.now_ns - request.start_time_delta_ns
                return log.sequence_at(start_ns)
        return log.appended + 1

    def _stored(
        self,
        subscription: Subscription,
        reply: bytes,
        error: str,
        undo: Callable[[], None],
    ) -> None:
        """The row is stored: the client is told, and deliveries begin."""
        if subscription.is_offline:
            self._respond(reply, texts.UNKNOWN_CLIENT)  # it was closed meanwhile
        elif error:
            undo()
            self._respond(reply, error)
        else:
            response = SubscriptionResponse(ack_inbox=subscription.ack_inbox)
            self._core.respond(reply, response.encode())
            self.start(subscription)

    def start(self, subscription: Subscription) -> None:
        """From now on it is sent messages."""
        channel: Channel = subscription.channel
        subscription.is_started = True
        # What is overdue after a restart goes before new messages.
        expiry_ms = subscription.next_expiry_ms()
        subscription.is_due |= 0 < expiry_ms <= self._core.now_ms
        subscription.arm()
        channel.wake()

    def register(self, subscription: Subscription, client: Client) -> None:
        """Acks find it, and so does the end of its client."""
        core = self._core
        part = partition_of(subscription.channel.name)
        core.receiver.subscriptions[part][subscription.id] = subscription
        client.subscriptions.add(subscription)
        subscription.is_failing = client.is_failing
        own = b"%b.%d.%d" % (core.server_row.inbox_prefix, part, subscription.id)
        if subscription.ack_inbox != own:
            core.receiver.foreign[self._next_sid] = subscription
            self._foreign[subscription] = self._next_sid
            core.bus.subscribe(self._next_sid, subscription.ack_inbox)
            self._next_sid += 1

    # --- unsubscribe and close -------------------------------------------------------------------

    def unsubscribe(self, payload: bytes, reply: bytes, is_unsubscribe: bool) -> None:
        """An UnsubscribeRequest that came to the one or the other subject."""
        core = self._core
        try:
            request = UnsubscribeRequest.decode(payload)
        except ValueError:
            if core.is_lead:
                self._respond(reply, texts.INVALID_UNSUBSCRIBE)
            return
        if partition_of(request.subject) not in core.parts:
            return
        channel = core.channels.get(request.subject)
        if channel is None:
            self._respond(reply, texts.UNKNOWN_CHANNEL)
            return
        subscription = channel.find_inbox(request.inbox)
        if subscription is None:
            self._respond(reply, texts.INVALID_SUBSCRIPTION)
        elif subscription.client_id != request.client_id:
            self._respond(reply, texts.UNKNOWN_CLIENT)
        else:
            self.end(subscription, is_unsubscribe)
            core.after_commit(lambda error: self._respond(reply, error))

    def end(self, subscription: Subscription, is_unsubscribe: bool) -> None:
        """Ends a subscription that is online; a durable one stays unless it is unsubscribed."""
        core = self._core
        channel: Channel = subscription.channel
        client = core.clients.find(subscription.client_id)
        if client is not None:
            client.subscriptions.discard(subscription)
        self._forget_ack_inbox(subscription)
        if channel.remove(subscription, is_unsubscribe):
            core.store.save_subscription(channel.name, subscription.row())
        else:
            core.store.forget_subscription(channel.name, subscription.id)
        # What it had in flight may have gone to others: that is stored with its end, or lost.
        core.save_positions()
        self._channels.watch_activity(channel)

    def end_all(self, client: Client) -> None:
        """Its client is gone: closed, replaced or dead."""
        for subscription in sorted(client.subscriptions, key=lambda each: each.id):
            self.end(subscription, is_unsubscribe=False)
        client.subscriptions.clear()

    def _forget_ack_inbox(self, subscription: Subscription) -> None:
        core = self._core
        part = partition_of(subscription.channel.name)
        core.receiver.subscriptions[part].pop(subscription.id, None)
        sid = self._foreign.pop(subscription, None)
        if sid is not None:
            core.bus.unsubscribe(sid)
            del core.receiver.foreign[sid]

    def _respond(self, reply: bytes, error: str) -> None:
        self._core.respond(reply, SubscriptionResponse(error=error).encode())
