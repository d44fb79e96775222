"""The facts behind the documents, from the shared page, from the kernel and from other processes.

What the page holds is read; what only a process knows is asked for. One answer to many readers at
the same time: whoever asks while the same question is under way gets the same answer.
"""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import psutil

from shardd.auth.operator import accounts_of
from shardd.config.core import Config
from shardd.host import HostSetup
from shardd.moments import time_text
from shardd.monitor.asker import Asker
from shardd.reports import accountz, connz, processz, subsz, varz
from shardd.reports.processz import ProcessFacts
from shardd.reports.query import QueryError
from shardd.slots import State
from shardd.topology import Topology

Result = TypeVar("Result")

# Answers about processes are kept this long: a scrape storm asks the kernel once.
_KEEP_S: Final = 0.25


class Gathering:
    """Gathers for one monitor. Touched by its event loop only.

    Args:
        setup: the host.
        asker: the way to the other processes.
        start_ns: when the server began.
    """

    def __init__(self, setup: HostSetup, asker: Asker, start_ns: int) -> None:
        self._setup = setup
        self._config = setup.config
        self._asker = asker
        self.start_ns = start_ns
        self._loaded_ns = start_ns
        self._topology = Topology()
        self.requests: Counter[str] = Counter()
        self._processes: dict[int, psutil.Process] = {}
        self._looked = 0.0
        self._seen: list[ProcessFacts] = []
        self._under_way: dict[str, asyncio.Task[Any]] = {}

    @property
    def config(self) -> Config:
        """In force."""
        return self._config

    @property
    def server_id(self) -> str:
        """Of the host."""
        return self._setup.server_id

    def reload(self, config: Config, now_ns: int) -> None:
        """From here on another configuration is in force."""
        self._config = config
        self._loaded_ns = now_ns

    def note_topology(self, topology: Topology) -> None:
        """The router tells where clients can go."""
        self._topology = topology

    # --- documents -----------------------------------------------------------------------------

    async def make_varz(self) -> dict[str, Any]:
        """`/varz`."""
        facts = await self.once("host", self._host_facts)
        return varz.document(self._config, facts, time.time_ns())

    async def make_connz(self, query: connz.ConnzQuery) -> dict[str, Any]:
        """`/connz`."""
        if query.account and query.account not in self._config.account_names:
            return connz.unknown_account(query, time.time_ns())
        answers = await self._ask("connz", query.fields())
        picked = [connz.Picked(**answer) for answer in answers]
        return connz.document(picked, query, self.server_id, time.time_ns())

    async def make_subsz(self, query: subsz.SubszQuery) -> dict[str, Any]:
        """`/subsz`."""
        return subsz.document(await self._index_facts(query), query, self.server_id, time.time_ns())

    async def make_accountz(self, name: str) -> dict[str, Any]:
        """`/accountz`. Raises QueryError for an account that does not exist."""
        view = self._view()
        now_ns = time.time_ns()
        if not name:
            return accountz.list_document(view, self.server_id, now_ns)
        if name not in view.names:
            raise QueryError(f"Account {name} does not exist")
        facts = (await self.account_facts())[name]
        index = await self._index_facts(subsz.SubszQuery(account=name))
        return accountz.detail_document(view, name, facts, index, self.server_id, now_ns)

    async def account_facts(self) -> dict[str, accountz.AccountFacts]:
        """Every account, with what all workers count of it."""
        answers = await self.once("accounts", lambda: self._ask("accounts", {}))
        sums: dict[str, list[accountz.AccountFacts]] = {
            name: [] for name in self._config.account_names
        }
        for answer in answers:
            for name, numbers in answer["accounts"].items():
                sums.setdefault(name, []).append(accountz.AccountFacts(*numbers))
        return {name: accountz.add(facts) for name, facts in sums.items()}

    async def make_routez(self, has_subscriptions: bool) -> dict[str, Any]:
        """`/routez`; without routes where there is no router, or none that answers."""
        router = self._setup.router_index
        if router is not None:
            question = {"ask": "routez", "subs": has_subscriptions}
            answers = await self._asker.ask([router], question)
            if answers and answers[0]:
                return _with_subscriptions(answers[0])
        return {
            "server_id": self.server_id,
            "server_name": self._setup.server_name,
            "now": time_text(time.time_ns()),
            "num_routes": 0,
            "routes": [],
        }

    def make_processz(self) -> dict[str, Any]:
        """`/processz`."""
        return processz.document(self.processes(), self.server_id, time.time_ns())

    def health(self) -> tuple[bool, str]:
        """Whether the host serves, or why not."""
        slots = self._setup.slots
        for index in (*range(self._setup.worker_count), *self._setup.streaming_slots):
            if slots.state(index) is not State.READY:
                return False, f"{self._setup.name_of(index)} is not ready"
        return True, ""

    # --- facts ---------------------------------------------------------------------------------

    def processes(self) -> list[ProcessFacts]:
        """Every process of the host, the supervisor last; as it was a moment ago at most."""
        now = time.monotonic()
        if not self._seen or now - self._looked > _KEEP_S:
            self._looked = now
            slots = self._setup.slots
            seen = [
                self._look(index, self._setup.name_of(index), slots.pid(index))
                for index in range(slots.count)
            ]
            seen.append(self._look(slots.count, "Supervisor", os.getppid()))
            self._seen = [each for each in seen if each is not None]
        return self._seen

    def _look(self, index: int, name: str, pid: int) -> ProcessFacts | None:
        slots = self._setup.slots
        has_slot = index < slots.count
        try:
            process = self._processes.get(index)
            if process is None or process.pid != pid:
                process = self._processes[index] = psutil.Process(pid)
                process.cpu_percent()
            with process.oneshot():
                memory = process.memory_info()
                times = process.cpu_times()
                return ProcessFacts(
                    index=index,
                    name=name,
                    pid=pid,
                    state=slots.state(index).name.lower() if has_slot else "ready",
                    memory_bytes=memory.rss - (memory.shared if index else 0),
                    cpu_percent=process.cpu_percent(),
                    cpu_seconds=times.user + times.system,
                    counters=slots.counters(index) if has_slot else {},
                    ring_used_bytes=self._ring_used(index) if has_slot else 0,
                    ring_bytes=self._setup.rings[index].size if has_slot else 0,
                )
        except psutil.Error:
            self._processes.pop(index, None)
            return None  # just being replaced

    def _ring_used(self, index: int) -> int:
        """Bytes in a process's ring that not all others have read."""
        slots, ring = self._setup.slots, self._setup.rings[index]
        ready = slots.ready()
        cursors = [
            ring.cursor(peer) for peer in range(slots.count) if peer != index and ready >> peer & 1
        ]
        if not cursors or not ready >> index & 1:
            return 0
        return min(max(ring.published - min(cursors), 0), ring.size)

    async def _host_facts(self) -> varz.HostFacts:
        setup = self._setup
        totals = setup.slots.totals()
        processes = self.processes()
        return varz.HostFacts(
            server_id=setup.server_id,
            server_name=setup.server_name,
            port=setup.port,
            http_host=self._config.http_host or self._config.host,
            http_port=setup.http_port if self._config.http_port else 0,
            https_port=setup.http_port if self._config.https_port else 0,
            cluster_port=setup.cluster_port,
            start_ns=self.start_ns,
            config_load_ns=self._loaded_ns,
            memory_bytes=sum(each.memory_bytes for each in processes),
            cpu_percent=sum(each.cpu_percent for each in processes),
            cores=os.cpu_count() or 1,
            workers=setup.worker_count,
            totals=totals,
            subscriptions=totals["subscriptions"],
            routes=_route_facts(await self.make_routez(False)),
            requests=self.requests,
            connect_urls=self._topology.for_clients(is_websocket=False, is_lame_duck=False),
            websocket_urls=self._topology.for_clients(is_websocket=True, is_lame_duck=False),
        )

    async def _index_facts(self, query: subsz.SubszQuery) -> list[subsz.IndexFacts]:
        answers = await self._ask("subsz", query.fields())
        return [subsz.IndexFacts(**answer) for answer in answers]

    def _view(self) -> accountz.AccountsView:
        config = self._config
        return accountz.AccountsView(
            names=config.account_names,
            system_account=config.system_account,
            accounts={each.name: each for each in accounts_of(config)},
            updated_ns=self._loaded_ns,
        )

    async def _ask(self, name: str, query: dict[str, Any]) -> list[dict[str, Any]]:
        """What every worker answers."""
        workers: Sequence[int] = range(self._setup.worker_count)
        return await self._asker.last(workers, {"ask": name, "query": query})

    async def once(self, name: str, make: Callable[[], Awaitable[Result]]) -> Result:
        """An answer that is under way serves everybody who wants the same."""
        task = self._under_way.get(name)
        if task is None:
            task = asyncio.ensure_future(make())
            self._under_way[name] = task
            task.add_done_callback(lambda _: self._under_way.pop(name, None))
        result: Result = await asyncio.shield(task)
        return result


def _route_facts(document: dict[str, Any]) -> varz.RouteFacts:
    rows = document["routes"]
    return varz.RouteFacts(
        routes=len(rows),
        remotes=len({row["remote_id"] for row in rows}),
        in_messages=sum(row["in_msgs"] for row in rows),
        in_bytes=sum(row["in_bytes"] for row in rows),
        out_messages=sum(row["out_msgs"] for row in rows),
        out_bytes=sum(row["out_bytes"] for row in rows),
        slow_consumers=document.get("slow_consumers", 0),
    )


def _with_subscriptions(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The router's document, what its peers subscribe to put in its place."""
    document, *rest = parts
    lists: dict[int, list[str]] = {}
    for part in rest:
        names = lists.setdefault(part["rid"], [])
        names += [row[1] for row in part["subscriptions"]]
    for row in document["routes"]:
        if row["rid"] in lists:
            row["subscriptions_list"] = lists[row["rid"]]
    return document
