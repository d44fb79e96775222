"""What a running pool says of itself to its own user: both ends of the question.

Each streaming worker answers on a socket of its own in the server's runtime directory; whoever asks
puts the parts together, as monitoring over HTTP would.
"""

import asyncio
import dataclasses
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from shardd import inquiry
from shardd.config.streaming import ChannelEntry, ChannelLimits, StoreLimits, StreamingOptions
from shardd.inquiry import InquiryError, Part, socket_name
from shardd.streaming import statistics
from shardd.streaming.server import StreamingServer
from shardd.streaming.statistics import Document, ServerFacts
from shardd.streaming.subjects import partition_of
from shardd.version import SHARDD_VERSION

QUESTION: Final = "streaming"
MANAGE: Final = "streaming-admin"


def process_name(index: int) -> str:
    """What worker `index` of a pool is called, and its socket after it."""
    return f"Streaming {index}"


def answer(server: StreamingServer, server_id: str, question: Part) -> Iterator[Part]:
    """One worker's part of a document, and what is to be known for putting them together."""
    path, query = question.get("path"), question.get("query")
    if path not in statistics.PATHS or not isinstance(query, dict):
        yield {"error": "this server does not know the question"}
        return
    core = server.core
    options = core.options
    yield {
        "part": statistics.part(server, path, query),
        "workers": core.workers,
        "server_id": server_id,
        "started_ns": core.started_ns,
        "state": core.state,
        "cluster_id": options.cluster_id,
        "store": options.store,
        "limits": dataclasses.asdict(options.limits),
    }


def answers(
    server: StreamingServer, server_id: str, loop: asyncio.AbstractEventLoop
) -> dict[str, inquiry.Answer]:
    """All questions that one worker answers."""
    return {QUESTION: partial(answer, server, server_id), MANAGE: partial(manage, server, loop)}


def manage(
    server: StreamingServer, loop: asyncio.AbstractEventLoop, question: Part
) -> Iterator[Part | asyncio.Future[Part]]:
    """The answer to a request of `admin`, or which worker to ask."""
    if server.core.row is None:
        yield {"error": "this server stands by: ask the active one of its group"}
        return
    done: asyncio.Future[Part] = loop.create_future()

    def respond(document: Part) -> None:
        if not done.done():  # whoever asked may have left
            done.set_result(document)

    request = question.get("request")
    if server.manage(request, respond):
        yield done
        return
    name = request.get("channel") if isinstance(request, dict) else None
    if isinstance(name, str):
        yield {"worker": partition_of(name.encode("utf-8", "surrogatepass")) % server.core.workers}
    else:
        yield {"error": "the lead answers this"}


def order(directory: Path, request: Part) -> dict[str, Any]:
    """The answer to a request of `admin` by the pool in this runtime directory.

    Raises:
        OSError: it cannot be reached, FileNotFoundError when there is none.
        InquiryError: the request is refused, or a worker does not answer as it should.
    """
    question = {"ask": MANAGE, "request": dict(request)}
    document = _one(directory, 0, question)
    if "worker" in document:
        document = _one(directory, document["worker"], question)
    return document


def ask(directory: Path, path: str, query: Mapping[str, str]) -> tuple[int, Document | str]:
    """HTTP status and document, or a text instead, of the pool in this runtime directory.

    Raises:
        OSError: it cannot be reached, FileNotFoundError when there is none.
        InquiryError: a worker does not answer as it should.
    """
    question = {"ask": QUESTION, "path": path, "query": dict(query)}
    lead = _one(directory, 0, question)
    others = [_one(directory, index, question) for index in range(1, lead["workers"])]
    return assemble([lead, *others], path, query)


def assemble(
    answers: Sequence[Mapping[str, Any]], path: str, query: Mapping[str, str]
) -> tuple[int, Document | str]:
    """HTTP status and document, or a text instead, from what every worker answered; the lead's
    answer is the first."""
    lead = answers[0]
    facts = ServerFacts(
        server_id=lead["server_id"],
        version=SHARDD_VERSION,
        runtime="python",
        now_ns=time.time_ns(),
        started_ns=lead["started_ns"],
        state=lead["state"],
    )
    parts = [each["part"] for each in answers]
    return statistics.document(parts, path, query, _options_of(lead), facts)


def _one(directory: Path, index: int, question: Part) -> dict[str, Any]:
    for part in inquiry.ask(directory / socket_name(process_name(index)), question):
        return part
    raise InquiryError("the server gave no answer")


def _options_of(part: Mapping[str, Any]) -> StreamingOptions:
    limits = part["limits"]
    return StreamingOptions(
        cluster_id=part["cluster_id"],
        store=part["store"],
        limits=StoreLimits(
            limits["max_channels"],
            ChannelLimits(**limits["defaults"]),
            tuple(ChannelEntry(**entry) for entry in limits["channels"]),
        ),
    )
