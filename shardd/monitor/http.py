"""The HTTP side of monitoring: paths to documents, in the form that nats-server gives them.

HTTP itself is aiohttp's. A client that is slow, or that asks without end, costs this process alone:
few answers are made at the same time, connections are counted, and whoever does not read is let go
(`visitors`).
"""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from shardd.monitor.gathering import Gathering
from shardd.monitor.metrics import CONTENT_TYPE, Metrics
from shardd.monitor.page import HEADERS, page
from shardd.monitor.streaming import INDEX, PATHS, StreamingDocuments
from shardd.monitor.visitors import Visitors
from shardd.reports import absent, accountz, connz, healthz, subsz
from shardd.reports.documents import Document, encode, encode_line
from shardd.reports.query import Query, QueryError

# Documents in the making; others wait for their turn.
_ANSWERS_MAX: Final = 8
# What is counted under another name, and what is not counted, as on nats-server.
_ALIASES: Final = {"subscriptionsz": "subsz"}
_UNCOUNTED: Final = "/ipqueuesz"
_KEEP_ALIVE_S: Final = 30.0
_HEADER_BYTES_MAX: Final = 8192


class _NoFaultOfOurs(logging.Filter):
    """A request that cannot be read was refused, and that is all that there is to say."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is worth a line."""
        kind = record.exc_info[0] if record.exc_info else None
        return kind is None or not issubclass(kind, HttpProcessingError)


# What aiohttp has to say.
_log = logging.getLogger("shardd.monitor.http")
_log.addFilter(_NoFaultOfOurs())

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Monitoring:
    """The documents of one host over HTTP. Touched by one event loop only.

    Args:
        gathering: where the facts come from.
        streaming: the streaming pool's documents.
        metrics: the same as Prometheus reads it.
        base_path: `http_base_path`.
    """

    def __init__(
        self,
        gathering: Gathering,
        streaming: StreamingDocuments,
        metrics: Metrics,
        base_path: str,
    ) -> None:
        self._gathering = gathering
        self._streaming = streaming
        self._metrics = metrics
        self._page_text = page()
        self._turn = asyncio.Semaphore(_ANSWERS_MAX)
        self._base = "/" + base_path.strip("/") if base_path.strip("/") else ""
        self._runner: web.AppRunner | None = None
        self._visitors: Visitors | None = None

    async def start(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        """Serves what comes in at the listener."""
        app = web.Application(middlewares=[_plain_errors], client_max_size=_HEADER_BYTES_MAX)
        for name, handler in self._handlers().items():
            path = f"{self._base}/{name}"
            app.router.add_route("*", path, self._counted(f"/{_ALIASES.get(name, name)}", handler))
        self._runner = web.AppRunner(
            app,
            access_log=None,
            handle_signals=False,
            keepalive_timeout=_KEEP_ALIVE_S,
            max_line_size=_HEADER_BYTES_MAX,
            max_field_size=_HEADER_BYTES_MAX,
            lingering_time=0.0,
            logger=_log,
        )
        await self._runner.setup()
        assert self._runner.server is not None
        self._visitors = Visitors(listener, context, self._runner.server)
        self._visitors.start()

    async def stop(self) -> None:
        """Answers no more."""
        if self._visitors is not None:
            self._visitors.stop()
        if self._runner is not None:
            await self._runner.cleanup()

    def _handlers(self) -> dict[str, Handler]:
        handlers: dict[str, Handler] = {
            "": self._page,
            "varz": self._varz,
            "connz": self._connz,
            "subsz": self._subsz,
            "subscriptionsz": self._subsz,
            "routez": self._routez,
            "accountz": self._accountz,
            "accstatz": self._accstatz,
            "healthz": self._healthz,
            "processz": self._processz,
            "metrics": self._prometheus,
        }
        handlers["ipqueuesz"] = self._nothing
        if self._streaming.is_served:
            handlers["streaming"] = self._streaming_index
            handlers["streaming/isFTActive"] = self._is_ft_active
            handlers |= {f"streaming/{path}": self._of_streaming(path) for path in PATHS}
        for name, make in absent.DOCUMENTS.items():
            handlers[name] = self._absent(make)
        return handlers

    def _counted(self, path: str, handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            if path != _UNCOUNTED:
                self._gathering.requests[path] += 1
            if self._visitors is not None:
                self._visitors.note(request.transport)
            async with self._turn:
                return await handler(request)

        return handle

    # --- documents -----------------------------------------------------------------------------

    async def _varz(self, _: web.Request) -> web.Response:
        return _answer(await self._gathering.make_varz())

    async def _connz(self, request: web.Request) -> web.Response:
        return _answer(await self._gathering.make_connz(connz.read_query(_query(request))))

    async def _subsz(self, request: web.Request) -> web.Response:
        return _answer(await self._gathering.make_subsz(subsz.read_query(_query(request))))

    async def _processz(self, _: web.Request) -> web.Response:
        return _answer(self._gathering.make_processz())

    async def _routez(self, request: web.Request) -> web.Response:
        query = _query(request)
        has_subscriptions = query.text("subs") == "detail" or query.boolean("subs")
        return _answer(await self._gathering.make_routez(has_subscriptions))

    async def _accountz(self, request: web.Request) -> web.Response:
        return _answer(await self._gathering.make_accountz(_query(request).text("acc")))

    async def _accstatz(self, request: web.Request) -> web.Response:
        query = _query(request)
        query.boolean("unused")
        facts = await self._gathering.account_facts()
        document = accountz.statistics_document(
            facts, query, self._gathering.server_id, time.time_ns()
        )
        return _answer(document)

    async def _healthz(self, request: web.Request) -> web.Response:
        is_ready, why_not = self._gathering.health()
        status, document = healthz.answer(_query(request), is_ready=is_ready, why_not=why_not)
        return _response(encode_line(document), status)

    def _absent(self, make: Callable[[str, int], Document]) -> Handler:
        async def handle(_: web.Request) -> web.Response:
            return _answer(make(self._gathering.server_id, time.time_ns()))

        return handle

    def _of_streaming(self, path: str) -> Handler:
        async def handle(request: web.Request) -> web.Response:
            status, kind, body = await self._streaming.answer(path, dict(request.query))
            return web.Response(body=body, status=status, headers={"Content-Type": kind})

        return handle

    async def _streaming_index(self, _: web.Request) -> web.Response:
        return web.Response(text=INDEX, content_type="text/html", headers=HEADERS)

    async def _is_ft_active(self, _: web.Request) -> web.Response:
        """200 from the active server of a fault-tolerance group, 204 from any other."""
        return web.Response(status=200 if await self._streaming.is_active() else 204)

    async def _nothing(self, _: web.Request) -> web.Response:
        """nats-server's own queues: there are none."""
        return _response(b"{}", 200)

    async def _prometheus(self, _: web.Request) -> web.Response:
        text = await self._metrics.text()
        return web.Response(body=text, headers={"Content-Type": CONTENT_TYPE})

    async def _page(self, _: web.Request) -> web.Response:
        return web.Response(text=self._page_text, content_type="text/html", headers=HEADERS)


@web.middleware
async def _plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """What cannot be answered, in nats-server's words."""
    try:
        return await handler(request)
    except QueryError as error:
        return _text(str(error), 400)
    except web.HTTPNotFound:
        return _text("404 page not found\n", 404)


def _query(request: web.Request) -> Query:
    return Query({name: request.query.getall(name) for name in request.query})


def _answer(document: Document) -> web.Response:
    return _response(encode(document), 200)


def _response(body: bytes, status: int) -> web.Response:
    headers = {"Content-Type": "application/json", "Access-Control-Allow-Origin": "*"}
    return web.Response(body=body, status=status, headers=headers)


def _text(text: str, status: int) -> web.Response:
    headers = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=text.encode(), status=status, headers=headers)
