"""A streaming server that does what a test says: for answers that a real one gives at bad times.

It lives in the test's event loop and speaks through a NATS connection of its own.
"""

import asyncio
from dataclasses import dataclass, field, replace
from typing import Any, Final

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from shardd.streaming.messages import (
    Ack,
    CloseRequest,
    CloseResponse,
    ConnectRequest,
    ConnectResponse,
    MsgProto,
    Ping,
    PingResponse,
    PubAck,
    PubMsg,
    SubscriptionRequest,
    SubscriptionResponse,
    UnsubscribeRequest,
)
from shardd.streaming.protobuf import Message
from tests.support.waiting import wait_until_async

CLUSTER_ID: Final = "double"
ACK_INBOX: Final = "double.acks"

LISTENS: Final[dict[str, tuple[str, type[Message]]]] = {
    "connect": (f"_STAN.discover.{CLUSTER_ID}", ConnectRequest),
    "ping": ("double.ping", Ping),
    "sub": ("double.sub", SubscriptionRequest),
    "unsub": ("double.unsub", UnsubscribeRequest),
    "subclose": ("double.subclose", UnsubscribeRequest),
    "close": ("double.close", CloseRequest),
    "pub": ("double.pub.>", PubMsg),
    "acks": (ACK_INBOX, Ack),
}

Answer = Message | bytes | None


@dataclass
class StreamingDouble:
    """Notes all that it gets, and answers with `answers`; None is silence."""

    nats: Client
    got: dict[str, list[Any]] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    early: MsgProto | None = None  # delivered to a subscriber before it is answered

    async def start(self) -> None:
        """Begins to listen, and returns when the NATS server knows."""
        self.answers = {
            "connect": ConnectResponse(
                pub_prefix=b"double.pub",
                sub_requests=b"double.sub",
                unsub_requests=b"double.unsub",
                close_requests=b"double.close",
                sub_close_requests=b"double.subclose",
                ping_requests=b"double.ping",
                protocol=1,
            ),
            "ping": PingResponse(),
            "sub": SubscriptionResponse(ack_inbox=ACK_INBOX.encode()),
            "unsub": SubscriptionResponse(),
            "subclose": SubscriptionResponse(),
            "close": CloseResponse(),
            "pub": PubAck(),
            "acks": None,
        }
        for kind in LISTENS:
            await self.listen(kind)
        await self.nats.flush()

    async def wait_for(self, kind: str, count: int = 1) -> list[Any]:
        """The messages of one kind, once there are so many."""
        await wait_until_async(lambda: len(self.got[kind]) >= count, f"{count} of {kind}")
        return self.got[kind]

    async def deliver(self, inbox: bytes, message: MsgProto) -> None:
        """Sends a message to a subscriber."""
        await self.nats.publish(inbox.decode(), message.encode())

    async def stop(self, kind: str) -> None:
        """Hears no more of one kind, and returns when the NATS server knows."""
        await self.subscriptions.pop(kind).unsubscribe()
        await self.nats.flush()
        await self.nats.flush()

    async def listen(self, kind: str) -> None:
        """Hears one kind, and forgets what it heard before."""
        self.got[kind] = []
        subject, message = LISTENS[kind]

        async def take(raw: Msg) -> None:
            got = message.decode(raw.data)
            self.got[kind].append(got)
            answer = self.answers[kind]
            if isinstance(got, SubscriptionRequest) and self.early is not None:
                await self.deliver(got.inbox, self.early)
            if isinstance(answer, PubAck) and isinstance(got, PubMsg):
                answer = replace(answer, guid=got.guid)
            if isinstance(answer, ConnectResponse) and isinstance(got, ConnectRequest):
                answer = replace(
                    answer, ping_interval=got.ping_interval, ping_max_out=got.ping_max_out
                )
            if answer is not None and raw.reply:
                data = answer if isinstance(answer, bytes) else answer.encode()
                await self.nats.publish(raw.reply, data)

        self.subscriptions[kind] = await self.nats.subscribe(subject, cb=take)


async def is_anybody_at(nats: Client, inbox: str) -> bool:
    """Whether somebody listens to an inbox: the NATS server says at once if nobody does."""
    reply = nats.new_inbox()
    answers: asyncio.Queue[Msg] = asyncio.Queue()
    subscription = await nats.subscribe(reply, cb=answers.put)
    await nats.publish(inbox, b"", reply=reply)
    await nats.flush()
    await nats.flush()
    await subscription.unsubscribe()
    return answers.empty() or (answers.get_nowait().headers or {}).get("Status") != "503"
