# cython: language_level=3str
"""Accounts beyond plain subjects: mappings, imported streams, imported services (sheet 9).

An account without any of these has no `Space`, and its clients publish straight into the
dispatcher.

A mapping changes a message's subject before it is routed. An imported stream makes, for each
subscription that it concerns, a second one in the exporting account, which delivers through the
first under the subject that the importer knows. An imported service sends a request on into the
exporting account with a reply of our own; the response comes in at an inbox there and goes to the
original reply. Imports are known to every process and announced by none: a request is sent on by
the process that its publisher is connected to, once. The inboxes are ordinary subscriptions, so
that a responder on any process finds its way.
"""

import hashlib
import json
from dataclasses import dataclass

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t

from shardd import limits
from shardd.config import model
from shardd.router.imports import Service, StreamRoute, reversed_pattern, service_of, stream_route
from shardd.transform import Transform, intersection, matches

from shardd.router.dispatch cimport Dispatcher
from shardd.router.frame cimport MESSAGE_HAS_HEADER, Message, tail_room, write_tail
from shardd.router.sublist cimport Subscriber, Subscription

INFO_HEADER = b"Nats-Request-Info: "  # what nats-server tells the responder in
WORKED_OUT_MAX = limits.MAPPED_SUBJECTS_MAX
PENDING_MAX = limits.PENDING_RESPONSES_MAX

cdef enum:
    # Services that call services that call services: beyond this it is a circle.
    DEPTH_MAX = 16


@dataclass(slots=True)
class Pending:
    """A request that waits for its response."""

    account: int  # of the importer
    exporter: int  # the account that may answer
    reply: bytes
    is_single: bool
    until_ms: int
    lives_ms: int


cdef inline const unsigned char* data(bytes source) noexcept:
    return <const unsigned char*>PyBytes_AS_STRING(source)


@cython.final
cdef class Space:
    """One account that has mappings or imports. Touched by its process's event loop only."""

    def __init__(self, Spaces spaces not None, uint32_t account, str name not None):
        self.spaces = spaces
        self.name = name
        self.dispatcher = spaces.dispatcher
        self.account = account
        self._mappings = []
        self._mapped = {}
        self._services = []
        self._served = {}
        self.streams = []

    def add_mapping(self, mapping: object, cluster: str) -> None:
        """Messages to one subject go elsewhere. Raises ValueError."""
        chosen = [each for each in mapping.destinations if each.cluster == cluster and cluster]
        chosen = chosen or [each for each in mapping.destinations if not each.cluster]
        if not chosen:
            return
        destinations = []
        total = 0
        below = self.spaces.random.randrange
        for each in chosen:
            total += each.weight
            destinations.append((each.weight, Transform(mapping.source, each.subject, below)))
        if total < 100 and all(each.subject != mapping.source for each in chosen):
            # What is not given away stays.
            destinations.append((100 - total, None))
        self._mappings.append((Transform(mapping.source, mapping.source), destinations))
        # One subject beats any pattern; else the first that matches counts.
        self._mappings.sort(key=lambda item: "*" in item[0].source or ">" in item[0].source)

    def add_service(self, service: Service) -> None:
        self._services.append(service)

    def add_stream(self, route: StreamRoute) -> None:
        self.streams.append(route)

    # --- publishing ----------------------------------------------------------------------------

    cdef int publish(self, Message* message, Subscriber* publisher, bint echo) except -1:
        cdef bytes mapped
        if not self._mappings:
            return self._publish_mapped(message, publisher, echo)
        mapped = self._map(message.subject[:message.subject_len])
        if mapped is not None:
            message.subject = data(mapped)
            message.subject_len = PyBytes_GET_SIZE(mapped)
        return self._publish_mapped(message, publisher, echo)

    cdef int _publish_mapped(
        self, Message* message, Subscriber* publisher, bint echo
    ) except -1:
        cdef int takers = self.dispatcher.publish(message, publisher, echo)
        cdef bytes subject
        cdef list served
        if not self._services:
            return takers
        subject = message.subject[:message.subject_len]
        served = self._served.get(subject)
        if served is None:
            served = self._find_services(subject)
        for service, there in served:
            takers += self._request(service, there, message)
        return takers

    def _map(self, bytes subject) -> bytes:
        """Where a message goes instead; None: nowhere else."""
        cdef list choices = self._mapped.get(subject)
        if choices is None:
            choices = self._find_mapping(subject)
        if not choices:
            return None
        if len(choices) == 1 and choices[0][0] >= 100:
            chosen = choices[0][1]
        else:
            pick = self.spaces.random.random() * 100
            chosen = None
            for weight, destination in choices:
                pick -= weight
                if pick < 0:
                    chosen = destination
                    break
        if chosen is None or isinstance(chosen, bytes):
            return chosen
        return chosen.apply(_text(subject)).encode("utf-8", "surrogateescape")

    def _find_mapping(self, bytes subject) -> list:
        """The destinations of a subject, with their weights; worked out where they always are
        the same."""
        text = _text(subject)
        choices = []
        for source, destinations in self._mappings:
            if not source.matches(text):
                continue
            for weight, transform in destinations:
                if transform is None:
                    choices.append((weight, None))
                elif transform.is_random:
                    choices.append((weight, transform))
                else:
                    choices.append(
                        (weight, transform.apply(text).encode("utf-8", "surrogateescape")))
            break
        if len(self._mapped) >= WORKED_OUT_MAX:
            self._mapped.clear()
        self._mapped[subject] = choices
        return choices

    def _find_services(self, bytes subject) -> list:
        text = _text(subject)
        tokens = text.split(".")
        served = [
            (service, service.transform.apply(text).encode("utf-8", "surrogateescape"))
            for service in self._services if matches(service.pattern, tokens)
        ]
        if len(self._served) >= WORKED_OUT_MAX:
            self._served.clear()
        self._served[subject] = served
        return served

    cdef int _request(self, object service, bytes subject, Message* message) except -1:
        """Send a request on into the exporting account. Returns how many took it."""
        cdef Spaces spaces = self.spaces
        cdef Message request = message[0]
        cdef Space space
        cdef bytes reply = b""
        cdef bytes block
        cdef bytes body
        cdef bytes tail
        cdef object outer = spaces.introduction
        cdef int takers
        if spaces.depth >= DEPTH_MAX:
            return 0
        if message.reply_len:
            reply = spaces.expect(
                self.account, message.tail[1:1 + message.reply_len], service)
        info = spaces.introduce(self.name, message.publisher, service.is_shared)
        block, body = with_info(message, info)
        tail = rebuilt_tail(reply, block, body)
        request.header_len = PyBytes_GET_SIZE(block)
        request.total_len = PyBytes_GET_SIZE(block) + PyBytes_GET_SIZE(body)
        request.account = service.account
        request.subject = data(subject)
        request.subject_len = PyBytes_GET_SIZE(subject)
        request.flags = MESSAGE_HAS_HEADER
        request.tail = data(tail)
        request.tail_len = PyBytes_GET_SIZE(tail)
        request.reply_len = PyBytes_GET_SIZE(reply)
        request.plain_tail = NULL
        request.plain_tail_len = 0
        space = spaces.space(service.account)
        spaces.depth += 1
        spaces.introduction = info
        try:
            if space is None:
                takers = self.dispatcher.publish(&request, NULL, True)
            else:
                takers = space.publish(&request, NULL, True)
        finally:
            spaces.depth -= 1
            spaces.introduction = outer
        if takers == 0 and reply:
            spaces.forget(reply)
        return takers

    # --- subscribing ---------------------------------------------------------------------------

    cdef list shadow(self, Subscription* subscription, bytes subject, bytes queue):
        cdef list shadows = []
        cdef Shadow shadow
        tokens = _text(subject).split(".")
        for route in self.streams:
            shared = intersection(tokens, route.local)
            if shared is None:
                continue
            there = reversed_pattern(route, shared)
            shadow = Shadow(self.dispatcher, route.transform)
            shadow.begin(subscription, route.account, there, queue)
            shadows.append(shadow)
        return shadows or None


@cython.final
@cython.no_gc_clear
cdef class Shadow:
    """One imported part of one subscription. Ends with it, by `end`."""

    def __init__(self, Dispatcher dispatcher not None, object transform):
        self.dispatcher = dispatcher
        self._sublist = dispatcher.sublist
        self._transform = transform
        self._subjects = {}
        self._subscriber.owner = <void*>self
        self._subscriber.deliver = _deliver_shadow
        self._subscriber.expire = _expire_shadow

    def __dealloc__(self):
        if self._own != NULL:
            self._sublist.remove(self._own)

    cdef int begin(
        self, Subscription* parent, uint32_t account, bytes subject, bytes queue
    ) except -1:
        self._parent = parent
        self._own = self._sublist.insert(
            account, data(subject), PyBytes_GET_SIZE(subject),
            data(queue) if queue is not None else NULL,
            PyBytes_GET_SIZE(queue) if queue is not None else 0,
            self._parent.sid, self._parent.sid_len, &self._subscriber)

    cdef int deliver(self, Message* message) except -1:
        """Hand a message to the importing subscription under the importer's subject. It counts
        there: a maximum is one of all that arrives."""
        cdef Message local
        cdef bytes subject
        if self._parent.is_removed:
            return 0
        if self._transform is None:
            return self.dispatcher._deliver(self._parent, message)
        there = message.subject[:message.subject_len]
        subject = self._subjects.get(there)
        if subject is None:
            subject = self._transform.apply(_text(there)).encode("utf-8", "surrogateescape")
            if len(self._subjects) >= WORKED_OUT_MAX:
                self._subjects.clear()
            self._subjects[there] = subject
        local = message[0]
        local.subject = data(subject)
        local.subject_len = PyBytes_GET_SIZE(subject)
        return self.dispatcher._deliver(self._parent, &local)

    cdef int end(self) except -1:
        if self._own != NULL:
            self._sublist.remove(self._own)
            self._own = NULL


cdef int _deliver_shadow(void* owner, Subscription* subscription, Message* message) except -1:
    return (<Shadow>owner).deliver(message)


cdef int _expire_shadow(void* owner, Subscription* subscription) except -1:
    return (<Shadow>owner).end()


@cython.final
@cython.no_gc_clear
cdef class Inbox:
    """Takes the responses to this process's requests in one exporting account."""

    def __init__(self, Spaces spaces not None, uint32_t account):
        cdef bytes subject = spaces.prefix + b"*"
        self.spaces = spaces
        self._sublist = spaces.dispatcher.sublist
        self._subscriber.owner = <void*>self
        self._subscriber.deliver = _deliver_inbox
        self._subscriber.expire = _expire_inbox
        self._own = self._sublist.insert(
            account, data(subject), PyBytes_GET_SIZE(subject), NULL, 0, b"1", 1,
            &self._subscriber)

    def __dealloc__(self):
        if self._own != NULL:
            self._sublist.remove(self._own)

    cdef int deliver(self, Message* message) except -1:
        return self.spaces.respond(message)

    cdef int end(self) except -1:
        if self._own != NULL:
            self._sublist.remove(self._own)
            self._own = NULL


cdef int _deliver_inbox(void* owner, Subscription* subscription, Message* message) except -1:
    return (<Inbox>owner).deliver(message)


cdef int _expire_inbox(void* owner, Subscription* subscription) except -1:
    return 0


@cython.final
cdef class Spaces:
    """All accounts of one process that have mappings or imports.

    Args:
        dispatcher: of the process.
        randomness: a `random.Random`, for weights.
        prefix: what no other process's replies begin with, for those of this one: one token.
        describe: `describe(client id, whether all of it)`: what the exporter of a service is told
            of who asks.
        secret: nobody else's; what the replies are made from, 64 bytes at the most.
    """

    def __init__(
        self, Dispatcher dispatcher not None, object randomness not None, bytes prefix not None,
        object describe=None, bytes secret=b"",
    ):
        self.dispatcher = dispatcher
        self._describe = describe or (lambda client, is_all: {})
        self.random = randomness
        self.prefix = b"_R_." + prefix + b"."
        self._secret = secret
        self._spaces = {}
        self._inboxes = {}
        self._pending = {}

    cpdef Space space(self, uint32_t account):
        """The account's, None when it has neither mappings nor imports."""
        return self._spaces.get(account)

    def apply(self, accounts: object, ids: object, cluster: str = "") -> None:
        """Serve these accounts from now on. Requests that wait for a response still get it; what
        clients subscribed to before has to be subscribed to again.

        Raises:
            ValueError: a mapping or an import cannot be.
        """
        spaces = {}
        exporters = set()
        exports = {account.name: account.exports for account in accounts}
        for account in accounts:
            if not account.mappings and not account.imports:
                continue
            number = ids[account.name]
            space = spaces[number] = Space(self, number, account.name)
            for mapping in account.mappings:
                space.add_mapping(mapping, cluster)
            for each in account.imports:
                exporter = ids[each.account]
                if isinstance(each, model.StreamImport):
                    space.add_stream(stream_route(each, exporter))
                else:
                    space.add_service(
                        service_of(each, exporter, exports.get(each.account, ())))
                    exporters.add(exporter)
        self._spaces = spaces
        for account in [each for each in self._inboxes if each not in exporters]:
            (<Inbox>self._inboxes.pop(account)).end()
        for account in exporters:
            if account not in self._inboxes:
                self._inboxes[account] = Inbox(self, account)

    def introduce(self, name: str, uint64_t publisher, bint is_shared) -> dict:
        """What the exporter is told of who asks; of a chain of services, who asked first."""
        if self.introduction is not None:
            return {**self.introduction, "svc": name}
        return {"acc": name, **self._describe(publisher, is_shared)}

    def expect(self, uint32_t account, bytes reply, service: Service) -> bytes:
        """A reply of our own for a request; its response goes to `reply` in `account`."""
        if len(self._pending) >= PENDING_MAX:
            del self._pending[next(iter(self._pending))]
        self._number += 1
        # Whoever knows one reply must not know another one's: it could answer in its place.
        token = hashlib.blake2b(b"%x" % self._number, key=self._secret, digest_size=9)
        own = self.prefix + token.hexdigest().encode()
        self._pending[own] = Pending(
            account, service.account, reply, service.is_single,
            self.now_ms + service.lives_ms, service.lives_ms)
        return own

    def forget(self, bytes reply) -> None:
        """Nobody took the request."""
        self._pending.pop(reply, None)

    cdef int respond(self, Message* message) except -1:
        """A response has come: publish it to the original reply."""
        cdef bytes own = message.subject[:message.subject_len]
        cdef Message response
        cdef bytes block
        cdef bytes body
        cdef bytes tail
        cdef bytes reply
        pending = self._pending.get(own)
        if pending is None or pending.exporter != message.account:
            return 0
        if pending.is_single:
            del self._pending[own]
        else:
            pending.until_ms = self.now_ms + pending.lives_ms
        reply = pending.reply
        block, body = split_payload(message)
        tail = rebuilt_tail(b"", block, body)
        response = message[0]
        response.account = pending.account
        response.subject = data(reply)
        response.subject_len = PyBytes_GET_SIZE(reply)
        response.flags = message.flags & MESSAGE_HAS_HEADER
        response.tail = data(tail)
        response.tail_len = PyBytes_GET_SIZE(tail)
        response.reply_len = 0
        response.plain_tail = NULL
        response.plain_tail_len = 0
        # Inside the delivery of `message`: what is rebuilt for this one must not overwrite that.
        self.dispatcher.nesting += 1
        try:
            self.dispatcher.publish(&response, NULL, True)
        finally:
            self.dispatcher.nesting -= 1
        return 1

    def tick(self, uint64_t now_ms) -> None:
        """Take the time; responses that did not come in theirs are not waited for any more."""
        self.now_ms = now_ms
        if self._pending:
            late = [own for own, each in self._pending.items() if each.until_ms <= now_ms]
            for own in late:
                del self._pending[own]

    def pending(self) -> int:
        """Requests that wait for a response."""
        return len(self._pending)

    def close(self) -> None:
        """End every subscription of its own."""
        for inbox in self._inboxes.values():
            (<Inbox>inbox).end()
        self._inboxes.clear()


cdef tuple split_payload(const Message* message):
    """The header block, empty when there is none, and the rest of the payload."""
    cdef const unsigned char* payload = message.tail + message.tail_len - 2 - message.total_len
    cdef size_t header_len = message.header_len if message.flags & MESSAGE_HAS_HEADER else 0
    return payload[:header_len], payload[header_len:message.total_len]


cdef tuple with_info(const Message* message, dict info):
    """The same with a header that tells the responder who asks."""
    cdef bytes block
    cdef bytes body
    block, body = split_payload(message)
    lines = [
        line for line in (block or b"NATS/1.0\r\n\r\n").split(b"\r\n")
        if line and not line.lower().startswith(INFO_HEADER.lower())
    ]
    lines.append(INFO_HEADER + json.dumps(info, separators=(",", ":")).encode())
    return b"\r\n".join(lines) + b"\r\n\r\n", body


cdef bytes rebuilt_tail(bytes reply, bytes block, bytes body):
    """The tail of a message with these parts; without a header if the block is empty."""
    cdef size_t total = PyBytes_GET_SIZE(block) + PyBytes_GET_SIZE(body)
    cdef bytes payload = block + body
    cdef bytes tail = PyBytes_FromStringAndSize(NULL, tail_room(PyBytes_GET_SIZE(reply), total))
    cdef size_t length = write_tail(
        <unsigned char*>PyBytes_AS_STRING(tail), data(reply), PyBytes_GET_SIZE(reply),
        PyBytes_GET_SIZE(block) > 0, PyBytes_GET_SIZE(block), data(payload), total)
    return tail[:length]


def _text(subject: bytes) -> str:
    return subject.decode("utf-8", "surrogateescape")
