"""A whole host as one single server: what must be delivered, and what may never be.

The model knows nothing of processes, rings or interest. It is told what clients do and what their
subscriptions receive. A subscription is owed a message when it was confirmed (its client has read
the PONG after its SUB) before the message was published; a queue group is owed one when it had a
confirmed member then. What is published while a SUB is on its way may or may not reach it.

One freedom is left to a host of many processes: a message for a queue group whose chosen member is
gone on arrival is redirected, and may come to its new member later than the messages after it.
"""

from dataclasses import dataclass, field

from tests.support.sublist_oracle import matches


@dataclass(eq=False)
class Subscribed:
    """One subscription of one client."""

    client: object
    pattern: bytes
    queue: bytes | None
    is_live: bool = True
    is_confirmed: bool = False
    deliveries_max: int = 0
    received: list[int] = field(default_factory=list)

    def wants(self, subject: bytes) -> bool:
        """Whether it would get a message published now."""
        return self.is_live and matches(self.pattern, subject)


@dataclass(eq=False)
class Published:
    """One message: who is owed it, and which queue groups have had it."""

    publisher: object
    subject: bytes
    is_echoed: bool
    owed: set[Subscribed]
    owed_groups: dict[bytes, list[Subscribed]]
    redirects: int  # of the host until then
    groups: set[bytes] = field(default_factory=set)


class ServerModel:
    """The single server. Messages are numbered in the order they are published."""

    def __init__(self) -> None:
        self.live: list[Subscribed] = []
        self.messages: list[Published] = []
        self.redirects = 0
        self._settled = 0

    def subscribe(self, client: object, pattern: bytes, queue: bytes | None) -> Subscribed:
        """A client subscribes."""
        self.live.append(Subscribed(client, pattern, queue))
        return self.live[-1]

    def unsubscribe(self, one: Subscribed, deliveries_max: int = 0) -> None:
        """Now, or after so many deliveries."""
        one.deliveries_max = deliveries_max
        if len(one.received) >= deliveries_max and one.is_live:
            one.is_live = False
            self.live.remove(one)

    def publish(self, publisher: object, subject: bytes, is_echoed: bool = True) -> int:
        """Returns the number of the message, which is published right after."""
        wanting = [
            one
            for one in self.live
            if one.is_confirmed and one.wants(subject) and (is_echoed or one.client != publisher)
        ]
        groups: dict[bytes, list[Subscribed]] = {}
        for one in wanting:
            if one.queue is not None:
                groups.setdefault(one.queue, []).append(one)
        owed = {one for one in wanting if one.queue is None}
        self.messages.append(Published(publisher, subject, is_echoed, owed, groups, self.redirects))
        return len(self.messages) - 1

    def may_be_redirected(self, one: Subscribed, number: int) -> bool:
        """Whether the message may have come to this subscription by a detour."""
        return one.queue is not None and self.messages[number].redirects < self.redirects

    def receive(self, one: Subscribed, number: int, subject: bytes) -> None:
        """A subscription gets a message: it wants it, had it never, and nothing overtook it."""
        message = self.messages[number]
        assert subject == message.subject
        assert one.wants(subject), f"message {number} reached who does not want it"
        assert number not in one.received, f"message {number} came twice"
        if not self.may_be_redirected(one, number):
            is_other = message.is_echoed or one.client != message.publisher
            assert is_other, f"message {number} is an echo"
            later = [n for n in one.received if n > number]
            later = [n for n in later if self.messages[n].publisher == message.publisher]
            assert not later, f"message {number} was overtaken by {later}"
        if one.queue is not None:
            assert one.queue not in message.groups, f"two members of a group got {number}"
            message.groups.add(one.queue)
        one.received.append(number)
        message.owed.discard(one)
        if len(one.received) == one.deliveries_max:
            self.unsubscribe(one, one.deliveries_max)

    def unsettled(self) -> list[Published]:
        """Messages that may still be on their way."""
        return self.messages[self._settled :]

    def settle(self) -> None:
        """Nothing is on its way any more: all that was owed has come."""
        for number, message in enumerate(self.messages):
            if number >= self._settled:
                assert not any(one.is_live for one in message.owed), f"message {number} was lost"
                for queue, members in message.owed_groups.items():
                    stayed = any(one.is_live and not one.deliveries_max for one in members)
                    assert queue in message.groups or not stayed, f"no one of a group got {number}"
        self._settled = len(self.messages)
