"""The system account's service: requests under `$SYS.REQ`, and what the server says unasked.

The monitor is a client of the system account; requests reach it from any worker, and over routes
from other hosts, as they would reach anybody. Clients' coming and going is told by their own
workers.
"""

import asyncio
import gzip
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from shardd.identity import new_event_id
from shardd.moments import time_text
from shardd.monitor.gathering import Gathering
from shardd.monitor.member import Member
from shardd.reports import absent, accountz, connz, events, healthz, subsz
from shardd.reports.documents import Document, encode_line
from shardd.reports.query import Query, QueryError

_SERVER: Final = b"$SYS.REQ.SERVER."
_ACCOUNT: Final = b"$SYS.REQ.ACCOUNT."
_GZIP_HEADER: Final = b"NATS/1.0\r\nContent-Encoding: gzip\r\n\r\n"
_SERVER_KINDS: Final = (
    *(b"IDZ", b"STATSZ", b"VARZ", b"CONNZ", b"SUBSZ", b"ROUTEZ", b"ACCOUNTZ", b"HEALTHZ"),
    *(b"LEAFZ", b"GATEWAYZ", b"JSZ", b"PROFILEZ", b"EXPVARZ", b"IPQUEUESZ", b"RAFTZ"),
)
_ORDERS: Final = (b"RELOAD", b"KICK", b"LDM")
_ACCOUNT_KINDS: Final = (b"CONNZ", b"SUBSZ", b"LEAFZ", b"JSZ", b"INFO", b"CONNS", b"STATZ")
# What this server's clients do, and what the other servers of the cluster say.
_LISTENED: Final = (
    b"$SYS.ACCOUNT.*.CONNECT",
    b"$SYS.ACCOUNT.*.DISCONNECT",
    b"$SYS.SERVER.*.STATSZ",
    b"$SYS.SERVER.*.SHUTDOWN",
)
# The first heartbeat, and the pause that it grows to.
_BEAT_S_MIN: Final = 0.25
_BEAT_S_MAX: Final = 10.0
# Changes of an account's clients that come together are told together.
_GATHER_S: Final = 0.1
_REQUESTS_MAX: Final = 64

_log = logging.getLogger("shardd.monitor")

Kick = Callable[[int, bool], Awaitable[bool]]


class SystemService:
    """Owned by the monitor, touched by its event loop only.

    Args:
        member: the way to the host.
        gathering: where the facts come from.
        envelope: who this server is.
        account: the number of the system account.
        reload: makes the server read its configuration again.
        kick: ends a client, or tells it of lame duck mode; False: there is no such client.
    """

    def __init__(
        self,
        member: Member,
        gathering: Gathering,
        envelope: events.Envelope,
        account: int,
        reload: Callable[[], None],
        kick: Kick,
    ) -> None:
        self._member = member
        self._gathering = gathering
        self._envelope = envelope
        self._account = account
        self._reload = reload
        self._kick = kick
        self._beat_s = _BEAT_S_MIN
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed: set[str] = set()
        self._servers: dict[str, float] = {}

    def start(self) -> None:
        """Listen, and begin to beat."""
        server_id = self._envelope.server_id.encode()
        subjects = [b"$SYS.REQ.SERVER.PING"]
        subjects += [b"$SYS.REQ.SERVER.PING." + kind for kind in _SERVER_KINDS]
        subjects += [
            b"$SYS.REQ.SERVER.%b.%b" % (server_id, kind) for kind in _SERVER_KINDS + _ORDERS
        ]
        subjects += [b"$SYS.REQ.ACCOUNT.*." + kind for kind in _ACCOUNT_KINDS]
        for number, subject in enumerate((*subjects, *_LISTENED)):
            self._member.client.subscribe(subject, None, b"%d" % number, self._account)
        self._member.finish()
        loop = asyncio.get_running_loop()
        loop.call_later(_BEAT_S_MIN, self._beat)

    def on_message(self, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        """Something was published that the service listens to."""
        parts = subject.split(b".")
        if subject.startswith((_SERVER, _ACCOUNT)):
            if reply and len(self._tasks) < _REQUESTS_MAX:
                self._spawn(self._answer(parts, reply, header, payload))
        elif parts[1] == b"ACCOUNT":
            self._note_change(parts[2].decode("utf-8", "replace"), payload)
        else:
            server = parts[2].decode("ascii", "replace")
            if parts[3] == b"SHUTDOWN":
                self._servers.pop(server, None)
            elif server != self._envelope.server_id:
                self._servers[server] = time.monotonic()

    def say_lame_duck(self) -> None:
        """The server begins to let its clients go."""
        self._say("LAMEDUCK")

    def say_shutdown(self) -> None:
        """The server is about to end."""
        self._say("SHUTDOWN")

    # --- answers -------------------------------------------------------------------------------

    async def _answer(
        self, parts: list[bytes], reply: bytes, header: bytes, payload: bytes
    ) -> None:
        now_ns = time.time_ns
        kind = parts[4].decode("ascii", "replace") if len(parts) > 4 else "STATSZ"
        try:
            wishes = events.read_options(payload, kind) if kind != "IDZ" else {}
        except ValueError as error:
            document = {
                "server": self._envelope.server(now_ns()),
                "error": {"code": 400, "description": str(error)},
            }
            self._reply(reply, header, document)
            return
        if not self._envelope.is_meant(wishes):
            return
        scope = parts[3].decode("utf-8", "replace")
        try:
            if parts[2] == b"SERVER":
                answer = await self._server_answer(scope, kind, wishes)
            else:
                answer = await self._account_answer(scope, kind, wishes)
        except QueryError as error:
            answer = {"data": None, "error": {"code": 500, "description": str(error)}}
        if answer is None:
            return
        if "name" in answer or "type" in answer:
            self._reply(reply, header, answer)  # it needs no envelope, or has one
        else:
            self._reply(reply, header, {"server": self._envelope.server(now_ns()), **answer})

    async def _server_answer(
        self, scope: str, kind: str, wishes: dict[str, Any]
    ) -> Document | None:
        """What the whole server is asked; None: nobody answers that here."""
        envelope = self._envelope
        if kind == "IDZ":
            return {
                "name": envelope.server_name,
                "host": envelope.host,
                "id": envelope.server_id,
            }
        if kind == "STATSZ":
            return {"statsz": await self._statsz()}
        if scope != "PING":
            order = await self._order(kind, wishes)
            if order is not None:
                return order
        data = await self._document(kind, events.parameters(wishes))
        return None if data is None else {"data": data}

    async def _account_answer(
        self, account: str, kind: str, wishes: dict[str, Any]
    ) -> Document | None:
        """What is asked of one account; `PING` is all of them."""
        names = await self._gathering.account_facts()
        now_ns = time.time_ns()
        if kind == "STATZ":
            wanted = set(wishes.get("accounts") or names) if account == "PING" else {account}
            if not wanted & names.keys():
                return None
            rows = [
                accountz.statistics_row(name, facts)
                for name, facts in names.items()
                if name in wanted and (facts.connections or wishes.get("include_unused") is True)
            ]
            head = {"server_id": self._gathering.server_id, "now": time_text(now_ns)}
            return {"data": {**head, "account_statz": rows}}
        if kind == "CONNS":
            if account not in names:
                return None
            return events.account_event(
                self._envelope, account, names[account], new_event_id(), now_ns
            )
        parameters = events.parameters(wishes)
        parameters["acc"] = [account]
        if kind == "INFO":
            document = await self._gathering.make_accountz(account)
            return {"data": document["account_detail"]}
        if kind == "JSZ":
            raise QueryError("jetstream not enabled")
        if kind == "SUBSZ":
            parameters["subs"] = ["1"]
        if kind in ("CONNZ", "SUBSZ", "LEAFZ"):
            return {"data": await self._document(kind, parameters)}
        return None

    async def _document(self, kind: str, parameters: dict[str, list[str]]) -> Document | None:
        """The document that the same question has over HTTP. Raises QueryError."""
        gathering = self._gathering
        query = Query(parameters)
        if kind == "VARZ":
            return await gathering.make_varz()
        if kind == "CONNZ":
            return await gathering.make_connz(connz.read_query(query, query.text("filter_subject")))
        if kind == "SUBSZ":
            return await gathering.make_subsz(subsz.read_query(query))
        if kind == "ROUTEZ":
            return await gathering.make_routez(bool(query.text("subs")))
        if kind == "ACCOUNTZ":
            return await gathering.make_accountz(query.text("acc"))
        if kind == "HEALTHZ":
            is_ready, why_not = gathering.health()
            details = Query({"details": ["1"]})
            status, document = healthz.answer(details, is_ready=is_ready, why_not=why_not)
            return {"status": document["status"], "status_code": status} | document
        if kind == "PROFILEZ":
            return absent.profilez(query.text("name"))
        if kind in ("EXPVARZ", "IPQUEUESZ", "RAFTZ"):
            return {}  # there is no Go runtime, and no queue or group of that kind
        make = absent.DOCUMENTS.get(kind.lower())
        return None if make is None else make(gathering.server_id, time.time_ns())

    async def _order(self, kind: str, wishes: dict[str, Any]) -> Document | None:
        """What changes the server; None: the question is none of these."""
        if kind == "RELOAD":
            self._reload()
            return {}
        if kind not in ("KICK", "LDM"):
            return None
        cid = wishes.get("cid")
        if isinstance(cid, int) and cid > 0 and await self._kick(cid, kind == "LDM"):
            return {}
        text = "no such client or leafnode id" if kind == "KICK" else "no such client id"
        return {"error": {"code": 500, "description": text}}

    def _reply(self, reply: bytes, header: bytes, document: Document) -> None:
        body = encode_line(document)
        if b"gzip" in header.lower():
            self._publish(reply, gzip.compress(body, 1), _GZIP_HEADER)
        else:
            self._publish(reply, body)

    # --- unasked -------------------------------------------------------------------------------

    def _beat(self) -> None:
        self._beat_s = min(2 * self._beat_s, _BEAT_S_MAX)
        asyncio.get_running_loop().call_later(self._beat_s, self._beat)
        subject = b"$SYS.SERVER.%b.STATSZ" % self._envelope.server_id.encode()
        self._spawn(self._say_statsz(subject))

    async def _say_statsz(self, subject: bytes) -> None:
        statsz = await self._statsz()
        document = {"server": self._envelope.server(time.time_ns()), "statsz": statsz}
        self._publish(subject, encode_line(document))

    async def _statsz(self) -> Document:
        facts = await self._gathering.account_facts()
        active = sum(1 for each in facts.values() if each.connections)
        silent_since = time.monotonic() - 3 * _BEAT_S_MAX
        others = sum(1 for seen in self._servers.values() if seen > silent_since)
        varz = await self._gathering.make_varz()
        routes = (await self._gathering.make_routez(False))["routes"]
        return events.statsz(varz, routes, active, 1 + others)

    def _note_change(self, account: str, payload: bytes) -> None:
        """A client of an account of this very server has come or gone."""
        if self._envelope.server_id.encode() not in payload:
            return
        if not self._changed:
            asyncio.get_running_loop().call_later(
                _GATHER_S, lambda: self._spawn(self._say_accounts())
            )
        self._changed.add(account)

    async def _say_accounts(self) -> None:
        changed, self._changed = self._changed, set()
        facts = await self._gathering.account_facts()
        for name in sorted(changed & facts.keys()):
            for form in (b"$SYS.ACCOUNT.%b.SERVER.CONNS", b"$SYS.SERVER.ACCOUNT.%b.CONNS"):
                document = events.account_event(
                    self._envelope, name, facts[name], new_event_id(), time.time_ns()
                )
                self._publish(form % name.encode(), encode_line(document))

    def _say(self, what: str) -> None:
        subject = f"$SYS.SERVER.{self._envelope.server_id}.{what}".encode()
        document = self._envelope.server(time.time_ns())
        self._publish(subject, encode_line(document))

    def _publish(self, subject: bytes, payload: bytes, header: bytes = b"") -> None:
        try:
            self._member.client.publish(
                subject, payload, header=header, echo=False, account=self._account
            )
        except ValueError:
            _log.debug("cannot publish to %r", subject)  # a reply that nobody can have
        self._member.finish()

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
