"""What users asked the original for in vain: purge and delete channels, list and delete durables.

A request is an object, answered with one by the worker that owns the channel. `shardd stream` puts
it to the workers' sockets, where the server's own user is let in. As JSON it may come on
`_STAN.admin.<cluster>`: not unless that is configured, and who may publish there is for the
permissions of NATS to say.

    {"op": "channels"}
    {"op": "purge", "channel": "orders"}                 and "before": a sequence, to keep the rest
    {"op": "delete", "channel": "orders"}                "force": true although it is subscribed to
    {"op": "durables", "channel": "orders"}
    {"op": "delete_durable", "channel": "orders", "durable": "d", "client_id": "me"}
    {"op": "delete_durable", "channel": "orders", "durable": "d", "queue": "q"}

The answer holds `"ok": true` and what was asked for, or `"error"`.
"""

import json
from collections.abc import Callable
from typing import Any, Final

from shardd.streaming.channel import Channel
from shardd.streaming.channels import Channels
from shardd.streaming.core import Core
from shardd.streaming.store import SubscriptionRow
from shardd.streaming.subjects import partition_of
from shardd.streaming.subscribing import Subscribing
from shardd.streaming.subscription import Subscription

PREFIX: Final = b"_STAN.admin."

Document = dict[str, Any]


class AdminError(Exception):
    """A request cannot be served; the text is the answer's error."""


class Admin:
    """The administration of one worker's channels."""

    def __init__(self, core: Core, channels: Channels, subscribing: Subscribing) -> None:
        self._core = core
        self._channels = channels
        self._subscribing = subscribing
        self._operations = {
            "purge": self._purge,
            "delete": self._delete,
            "durables": self._durables,
            "delete_durable": self._delete_durable,
        }

    def take(self, payload: bytes, reply: bytes) -> None:
        """One request from NATS."""
        try:
            request = json.loads(payload)
        except (ValueError, RecursionError):
            request = None

        def respond(document: Document) -> None:
            self._core.respond(reply, json.dumps(document, ensure_ascii=True).encode())

        self.answer(request, respond)

    def answer(self, request: Any, respond: Callable[[Document], object]) -> bool:
        """One request. Calls back with the answer, from within or when it is stored; False when
        another worker answers."""
        try:
            answer = self._answer(request)
        except AdminError as error:
            respond({"error": str(error)})
            return True
        if answer is None:
            return False
        document, is_changed = answer
        self._core.after_commit(
            lambda error: respond({"error": error} if error else document),
            is_changed=is_changed,
        )
        return True

    def _answer(self, request: Any) -> tuple[Document, bool] | None:
        """The answer, and whether the store has to write for it; None: another worker answers."""
        operation = request.get("op") if isinstance(request, dict) else None
        name = request.get("channel") if isinstance(request, dict) else None
        if operation == "channels" and self._core.is_lead:
            names = [each.decode("utf-8", "replace") for each in self._channels.names]
            return {"ok": True, "channels": names}, False
        if not isinstance(operation, str) or operation not in {*self._operations, "channels"}:
            if self._core.is_lead:
                raise AdminError("the request is no JSON object, or its op is not known")
            return None
        if operation == "channels":
            return None
        if not isinstance(name, str):
            if self._core.is_lead:
                raise AdminError("the request names no channel")
            return None
        encoded = name.encode("utf-8", "surrogatepass")
        if partition_of(encoded) not in self._core.parts:
            return None
        channel = self._core.channels.get(encoded)
        if channel is None:
            raise AdminError(f"there is no channel {name!r}")
        document = {"ok": True, **self._operations[operation](channel, request)}
        return document, operation in {"delete", "delete_durable"}

    def _purge(self, channel: Channel, request: Document) -> Document:
        before = request.get("before")
        if before is None:
            before = channel.log.last + 1
        if not isinstance(before, int) or isinstance(before, bool) or before < 0:
            raise AdminError("before is not a sequence")
        dropped = channel.log.drop_before(min(before, channel.log.last + 1))
        channel.wake()
        return {"purged": dropped, "first": channel.log.first, "last": channel.log.last}

    def _delete(self, channel: Channel, request: Document) -> Document:
        if channel.is_active and request.get("force") is not True:
            raise AdminError(
                "the channel has active subscriptions: end them, or delete it with force"
            )
        if channel.log.appended != channel.log.last:
            raise AdminError("messages are just being stored in the channel: try again")
        messages = channel.log.messages
        for subscription in list(channel.subscriptions.values()):
            if not subscription.is_offline:
                self._subscribing.end(subscription, is_unsubscribe=True)
        self._channels.delete(channel)
        return {"deleted": messages}

    def _durables(self, channel: Channel, request: Document) -> Document:
        rows = [self._durable(each) for each in channel.subscriptions.values() if each.is_durable]
        return {"durables": rows}

    def _durable(self, subscription: Subscription) -> Document:
        row: SubscriptionRow = subscription.row()
        channel: Channel = subscription.channel
        durable, _, queue = row.queue_group.partition(":")
        return {
            "durable": row.durable_name or durable,
            "queue": queue,
            "client_id": row.client_id,
            "is_offline": subscription.is_offline,
            "last_sent": row.last_sent,
            "pending": len(row.pending),
            "lag": channel.log.last - row.last_sent + len(row.pending),
        }

    def _delete_durable(self, channel: Channel, request: Document) -> Document:
        durable, queue = request.get("durable"), request.get("queue") or ""
        subscription: Subscription | None
        if queue:
            group = channel.groups.get((f"{durable}:{queue}", True))
            if group is not None and group.members:
                raise AdminError("the durable is in use")
            subscription = None if group is None else group.remains
        else:
            subscription = channel.durables.get((str(request.get("client_id")), str(durable)))
            if subscription is not None and not subscription.is_offline:
                raise AdminError("the durable is in use")
        if subscription is None:
            raise AdminError("there is no such durable")
        channel.remove(subscription, is_unsubscribe=True)
        self._core.store.forget_subscription(channel.name, subscription.id)
        return {}
