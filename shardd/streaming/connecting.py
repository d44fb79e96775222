"""Connects, pings, closes and heartbeats (sheet 3, 8): the registry's rules.

All of it happens at the lead; of a close and of the end of a client every worker does its own part.
"""

import logging
import re
from typing import Final

from shardd.streaming import texts
from shardd.streaming.clients import Client
from shardd.streaming.core import Core
from shardd.streaming.followers import Followers
from shardd.streaming.inquiries import Inquiries
from shardd.streaming.messages import (
    CloseRequest,
    CloseResponse,
    ConnectRequest,
    ConnectResponse,
    Ping,
    PingResponse,
)
from shardd.streaming.pool import is_inbox
from shardd.streaming.schedule import Timer
from shardd.streaming.store import ClientRow
from shardd.streaming.subscribing import Subscribing

log = logging.getLogger("shardd.streaming")

PROTOCOL: Final = 1  # what every current server says it speaks

_CLIENT_ID = re.compile(r"[a-zA-Z0-9_-]+")

# How long the client that has an id may take to say that it lives (sheet 3).
CHECK_MS: Final = 500
# A client that had failed heartbeats and pings is asked again this soon.
AGAIN_MS: Final = 1


class Connecting:
    """The registry of one worker."""

    def __init__(
        self, core: Core, subscribing: Subscribing, inquiries: Inquiries, followers: Followers
    ) -> None:
        self._core = core
        self._subscribing = subscribing
        self._inquiries = inquiries
        self._followers = followers
        self._heartbeats: dict[Client, Timer] = {}
        self._numbers = 0
        options = core.options
        self._interval_ms = max(int(options.heartbeat_interval_s * 1000), 1)
        self._timeout_ms = max(int(options.heartbeat_timeout_s * 1000), 1)

    # --- connect ---------------------------------------------------------------------------------

    def connect(self, payload: bytes, reply: bytes) -> None:
        """A ConnectRequest; the answer is a ConnectResponse."""
        if not self._core.is_lead:
            return
        try:
            request = ConnectRequest.decode(payload)
        except ValueError:
            self._refuse(reply, texts.INVALID_CONNECTION)
            return
        if not is_inbox(request.heartbeat_inbox):
            self._refuse(reply, texts.INVALID_CONNECTION)
        elif not _CLIENT_ID.fullmatch(request.client_id):
            self._refuse(reply, texts.INVALID_CLIENT_ID)
        else:
            self._connect(request, reply)

    def _connect(self, request: ConnectRequest, reply: bytes) -> None:
        other = self._core.clients.find(request.client_id)
        if other is None:
            self._accept(request, reply)
        elif other.is_checked:
            self._refuse(reply, texts.CLIENT_REGISTERED)
        else:
            other.is_checked = True
            self._inquiries.ask(
                other.row.heartbeat_inbox,
                CHECK_MS,
                lambda is_there: self._checked(other, is_there, request, reply),
            )

    def _checked(
        self, other: Client, is_there: bool, request: ConnectRequest, reply: bytes
    ) -> None:
        """Whoever has the id lives, or has to make room."""
        other.is_checked = False
        current = self._core.clients.find(request.client_id)
        if is_there or current not in {None, other}:
            self._refuse(reply, texts.CLIENT_REGISTERED)
            return
        if current is other:
            log.info("client %s: replaced, it did not answer", request.client_id)
            self.end(other, is_told=False)
        self._accept(request, reply)

    def _accept(self, request: ConnectRequest, reply: bytes) -> None:
        row = ClientRow(
            client_id=request.client_id,
            heartbeat_inbox=request.heartbeat_inbox,
            connection_id=request.conn_id,
            protocol=request.protocol,
            ping_interval_s=request.ping_interval,
            ping_max_out=request.ping_max_out,
        )
        client = self.register(row)
        self._core.store.save_client(row)
        self._followers.announce(client)
        errors: list[str] = []

        def stored(error: str) -> None:
            errors.append(error)
            if len(errors) == 2:
                self._accepted(client, request, reply, errors[0] or errors[1])

        self._core.after_commit(stored)
        self._followers.wait("added", client.number, lambda: stored(""))

    def _accepted(self, client: Client, request: ConnectRequest, reply: bytes, error: str) -> None:
        """It is stored, and every worker knows the client."""
        if error:
            if self._core.clients.find(client.row.client_id) is client:
                self.end(client, is_told=False)
            self._refuse(reply, error)
            return
        subjects = self._core.subjects
        speaks_pings = request.protocol >= PROTOCOL
        response = ConnectResponse(
            pub_prefix=subjects.pub,
            sub_requests=subjects.sub,
            unsub_requests=subjects.unsub,
            close_requests=subjects.close,
            sub_close_requests=subjects.sub_close,
            ping_requests=subjects.pings if speaks_pings else b"",
            ping_interval=request.ping_interval if speaks_pings else 0,
            ping_max_out=request.ping_max_out if speaks_pings else 0,
            protocol=PROTOCOL,
        )
        self._core.respond(reply, response.encode())

    def register(self, row: ClientRow) -> Client:
        """A client from now on."""
        self._numbers += 1
        client = self._core.clients.add(row, self._numbers)
        self._beat_in(client, self._interval_ms)
        return client

    def recover(self, row: ClientRow) -> None:
        """A client that was one before the server was started; not all are asked at once."""
        if not is_inbox(row.heartbeat_inbox):
            log.warning("client %s: dropped, its heartbeat inbox is none", row.client_id)
            self._core.store.forget_client(row.client_id)
            return
        client = self.register(row)
        self._beat_in(client, self._interval_ms * (64 + client.number % 64) // 128)

    def _refuse(self, reply: bytes, error: str) -> None:
        self._core.respond(reply, ConnectResponse(error=error).encode())

    # --- pings -----------------------------------------------------------------------------------

    def ping(self, payload: bytes, reply: bytes) -> None:
        """Whether a connection is known. What is no ping gets no answer (sheet 3)."""
        if not self._core.is_lead or not payload:
            return
        try:
            connection_id = Ping.decode(payload).conn_id
        except ValueError:
            return
        client = self._core.clients.find_connection(connection_id)
        if client is None:
            self._core.respond(reply, PingResponse(error=texts.CLIENT_REPLACED).encode())
            return
        self._core.respond(reply, PingResponse().encode())
        if client.fail_count and client in self._heartbeats:
            self._beat_in(client, AGAIN_MS)

    # --- heartbeats ------------------------------------------------------------------------------

    def _beat_in(self, client: Client, wait_ms: int) -> None:
        timer = self._heartbeats.pop(client, None)
        if timer is not None:
            timer.cancel()
        self._heartbeats[client] = self._core.schedule.at(
            self._core.now_ms + wait_ms, lambda: self._beat(client)
        )

    def _beat(self, client: Client) -> None:
        # While the question is open there is no timer: a ping does not ask a second time.
        self._heartbeats.pop(client, None)
        self._inquiries.ask(
            client.row.heartbeat_inbox,
            self._timeout_ms,
            lambda is_there: self._answered(client, is_there),
        )

    def _answered(self, client: Client, is_there: bool) -> None:
        if self._core.clients.find(client.row.client_id) is not client:
            return
        client.fail_count = 0 if is_there else client.fail_count + 1
        if client.fail_count > self._core.options.heartbeat_fail_count:
            log.info("client %s: closed, it answers no heartbeats", client.row.client_id)
            self.end(client, is_told=False)
            return
        is_failing = client.fail_count > 0
        if client.is_failing != is_failing:
            client.set_failing(is_failing)
            self._followers.tell_failing(client)
        self._beat_in(client, self._interval_ms)

    # --- close -----------------------------------------------------------------------------------

    def close(self, payload: bytes, reply: bytes) -> None:
        """A CloseRequest, which every worker receives behind the client's own publishes."""
        core = self._core
        try:
            client_id = CloseRequest.decode(payload).client_id
        except ValueError:
            self._answer_close(reply, texts.INVALID_CLOSE)
            return
        client = core.clients.find(client_id)
        if client is None:
            self._answer_close(reply, texts.UNKNOWN_CLIENT)
            return
        is_changed = bool(client.subscriptions)
        self.end(client, is_told=True)
        if not core.is_lead:
            core.after_commit(
                lambda error: self._followers.done("closed", client.number),
                is_changed=is_changed,
            )
            return
        errors: list[str] = []

        def stored(error: str) -> None:
            errors.append(error)
            if len(errors) == 2:
                self._answer_close(reply, errors[0] or errors[1])

        core.after_commit(stored)
        self._followers.wait("closed", client.number, lambda: stored(""))

    def end(self, client: Client, is_told: bool) -> None:
        """Its subscriptions end here, its durables go offline, and it is no client any more. The
        other workers are told unless the client did so itself."""
        core = self._core
        self._subscribing.end_all(client)
        core.clients.remove(client)
        core.receiver.forget()
        timer = self._heartbeats.pop(client, None)
        if timer is not None:
            timer.cancel()
        if core.is_lead:
            core.store.forget_client(client.row.client_id)
            self._followers.note_ended(client, is_told)

    def _answer_close(self, reply: bytes, error: str) -> None:
        if self._core.is_lead:
            self._core.respond(reply, CloseResponse(error=error).encode())
