"""A run: one process publishes or asks, one subscribes or answers, and this one watches them.

The two are forked, so that neither slows the other down; each opens its connections, says that it
is ready, and begins when it is told to. They end by themselves, at the first SIGINT as if their
time were up, at the second at once.
"""

import multiprocessing
import os
import secrets
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from typing import Any, Final

from shardd.load.asking import request, respond
from shardd.load.greeting import Greeter, LoadError
from shardd.load.histogram import Histogram
from shardd.load.links import Link, LinkError, settle, use_fine_timers
from shardd.load.page import Page
from shardd.load.plan import STAMP_BYTES, Plan
from shardd.load.receiving import tally
from shardd.load.report import Client, Report, Side
from shardd.load.sending import flood, pace
from shardd.process import die_with_parent, raise_file_limit

GLANCE_S: Final = 0.1  # between two looks at how far it is

Watch = Callable[[int, int], object]


@dataclass(frozen=True, slots=True)
class _Done:
    """What one process found."""

    clients: list[Client]
    latency: Histogram | None = None
    lateness: Histogram | None = None


@dataclass(frozen=True, slots=True)
class _Failed:
    text: str
    is_echo: bool  # only because the other side had failed before


def run(plan: Plan, on_progress: Watch = lambda published, received: None) -> Report:
    """Make the load.

    Args:
        plan: what to do.
        on_progress: called every tenth of a second with how many messages were published and how
            many have arrived.

    Raises:
        LoadError, BootError: it could not be made, or did not come out as it must.
    """
    raise_file_limit()
    greeter = Greeter(plan)
    greeted = greeter.find()
    greeted.connection.close()
    info = greeted.info
    _check(plan, info)
    page = Page()
    hands = [
        _Hand(role, plan, greeter, page)
        for role, count in (("subscriber", plan.subscribers), ("publisher", plan.publishers))
        if count
    ]
    is_stopped = False
    try:
        _gather(hands, {})  # all are ready
        for hand in hands:
            hand.pipe.send("go")
        answers: dict[Connection[Any, Any], Any] = {}
        while True:
            try:
                glance = partial(_show, page, on_progress)
                found = _gather(hands, answers, glance)
                break
            except KeyboardInterrupt:
                if is_stopped:
                    raise
                is_stopped = True
                page.stop()
        on_progress(page.published, page.received)
    finally:
        for hand in hands:
            hand.end()
    roles = ("answered", "requested") if plan.is_request else ("received", "published")
    sides = [
        Side(roles[hand.role == "publisher"], done.clients)
        for hand, done in zip(hands, found, strict=True)
    ]
    server = {
        "address": greeter.address,
        "name": info.get("server_name", ""),
        "version": info.get("version", ""),
    }
    return Report(
        plan,
        server,
        sides[::-1],
        next((done.latency for done in found if done.latency is not None), None),
        next((done.lateness for done in found if done.lateness is not None), None),
        is_stopped,
    )


def _check(plan: Plan, info: dict[str, Any]) -> None:
    """Raise LoadError when this server does not take such messages."""
    payload_max = info.get("max_payload")
    if not isinstance(payload_max, int):
        payload_max = 0
    if payload_max and plan.publishers and plan.body_bytes > payload_max:
        raise LoadError(
            f"a message of {plan.body_bytes} bytes is more than the server takes ({payload_max})"
        )
    if plan.headers and not info.get("headers"):
        raise LoadError("the server does not take headers")


class _Hand:
    """The parent's handle of one process."""

    def __init__(self, role: str, plan: Plan, greeter: Greeter, page: Page) -> None:
        context = multiprocessing.get_context("fork")
        self.role = role
        self.pipe, theirs = context.Pipe()
        self._process: ForkProcess = context.Process(
            target=_work, args=(theirs, role, plan, greeter, page, os.getpid()), daemon=True
        )
        self._process.start()
        theirs.close()

    def end(self) -> None:
        """End the process, whatever it is at."""
        self.pipe.close()
        self._process.join(0.2)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _show(page: Page, on_progress: Watch) -> None:
    on_progress(page.published, page.received)


def _gather(
    hands: list[_Hand],
    answers: "dict[Connection[Any, Any], Any]",
    on_glance: Callable[[], object] = lambda: None,
) -> list[_Done]:
    """One answer of each process, beside those that are there from before an interruption.

    Raises LoadError: the failure that came first.
    """
    pipes = {hand.pipe: hand for hand in hands}
    while len(answers) < len(pipes):
        for pipe in wait([pipe for pipe in pipes if pipe not in answers], GLANCE_S):
            assert isinstance(pipe, Connection)
            try:
                answers[pipe] = pipe.recv()
            except (EOFError, ConnectionError):
                answers[pipe] = _Failed(f"the process of the {pipes[pipe].role}s died", False)
            if isinstance(answers[pipe], _Failed) and not answers[pipe].is_echo:
                raise LoadError(answers[pipe].text)
        on_glance()
    failed = [each for each in answers.values() if isinstance(each, _Failed)]
    if failed:
        raise LoadError(failed[0].text)
    return [answers[hand.pipe] for hand in hands]


# --- in the processes -------------------------------------------------------------------------


def _work(
    pipe: "Connection[Any, Any]",
    role: str,
    plan: Plan,
    greeter: Greeter,
    page: Page,
    parent: int,
) -> None:
    """One process's whole life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    die_with_parent(parent)
    use_fine_timers()
    try:
        side = _publishing if role == "publisher" else _subscribing
        go = side(plan, greeter, page)
        pipe.send(None)
        pipe.recv()
        pipe.send(go())
    except EOFError:  # the parent has given up
        return
    except InterruptedError as error:
        pipe.send(_Failed(str(error), True))
    except (LinkError, LoadError, OSError) as error:
        page.abort()
        pipe.send(_Failed(str(error), False))


def _open(plan: Plan, greeter: Greeter, role: str, count: int) -> list[Link]:
    links = []
    for index in range(count):
        greeted = greeter.open()
        links.append(Link(greeted.connection, f"{role} {index + 1}", greeted.held))
    return links


def _clients(links: list[Link]) -> list[Client]:
    return [Client(each.messages, each.payload_bytes, each.start_ns, each.end_ns) for each in links]


def _publishing(plan: Plan, greeter: Greeter, page: Page) -> Callable[[], _Done]:
    """Opens what publishes, or asks; what is returned does so."""
    role = "requester" if plan.is_request else "publisher"
    links = _open(plan, greeter, role, plan.publishers)
    if plan.is_request:
        inbox = f"_INBOX.{secrets.token_hex(8)}"
        inboxes = [f"{inbox}.{index}" for index in range(len(links))]
        for link, each in zip(links, inboxes, strict=True):
            link.send(f"SUB {each}.* 1\r\n".encode())
        settle(links, plan.patience_s)
        return lambda: _ask(plan, links, inboxes, page)
    return lambda: _publish(plan, links, page)


def _publish(plan: Plan, links: list[Link], page: Page) -> _Done:
    lateness = None
    if plan.rate:
        frames = [plan.frame(name) for name in plan.names]
        lateness = pace(
            links, frames, plan.stamp_at, plan.body_bytes, plan.copies, page, plan.rate,
            plan.total, plan.patience_s,
        )  # fmt: skip
    else:
        block, count = plan.block()
        quotas = plan.quotas()
        for link, quota in zip(links, quotas, strict=True):
            link.limit(quota)
        # With fewer messages than connections some have nothing to do.
        busy = [link for link, quota in zip(links, quotas, strict=True) if quota or not plan.total]
        flood(
            busy, block, count, plan.body_bytes, plan.copies, plan.credit, page,
            0.0 if plan.total else plan.seconds, plan.patience_s,
        )  # fmt: skip
    settle(links, plan.patience_s)
    page.finish()
    return _Done(_clients(links), None, lateness)


def _ask(plan: Plan, links: list[Link], inboxes: list[str], page: Page) -> _Done:
    requests = [plan.request(index, inbox) for index, inbox in enumerate(inboxes)]
    latency, lateness = request(
        links,
        [frame for frame, _ in requests],
        [place for _, place in requests],
        plan.body_bytes,
        page,
        plan.rate,
        plan.total,
        0.0 if plan.total else plan.seconds,
        plan.patience_s,
    )
    page.finish()
    return _Done(_clients(links), latency, lateness if plan.rate else None)


def _subscribing(plan: Plan, greeter: Greeter, page: Page) -> Callable[[], _Done]:
    """Opens what subscribes, or answers; what is returned does so."""
    role = "responder" if plan.is_request else "subscriber"
    links = _open(plan, greeter, role, plan.subscribers)
    group = f" {plan.group}" if plan.group else ""
    for link in links:
        link.send(f"SUB {plan.pattern}{group} 1\r\n".encode())
    settle(links, plan.patience_s)
    is_told = plan.publishers > 0
    return lambda: _receive(plan, links, page, is_told)


def _receive(plan: Plan, links: list[Link], page: Page, is_told: bool) -> _Done:
    if plan.is_request:
        respond(links, page, is_told, plan.messages, plan.seconds)
        return _Done(_clients(links))
    is_stamped = bool(plan.rate and is_told and plan.size >= STAMP_BYTES)
    latency = tally(links, page, is_stamped, is_told, plan.messages, plan.seconds, plan.patience_s)
    return _Done(_clients(links), latency if is_stamped else None)
