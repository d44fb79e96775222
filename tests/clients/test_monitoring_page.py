"""The page at `/` in a real browser: what it shows is what was sent, sorted and filtered.

With `SHARDD_SCREENSHOT=FILE` it leaves a picture of itself under load, as docs/monitoring.png is.
"""

import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.broker import Shardd
from tests.support.browser import Page, open_browser
from tests.support.fixtures import Dial
from tests.support.waiting import PATIENCE, wait_until
from tests.support.watched import document, fetch
from tests.support.wireclient import WireClient

CONFIG: Final = """
http: "127.0.0.1:-1"
server_name: harbour
shardd { workers: 2 }
accounts {
  ORDERS { users [ {user: shop, password: p}, {user: stock, password: p} ] }
  WEATHER { users [ {user: station, password: p} ] }
}
"""
PICTURE: Final = os.environ.get("SHARDD_SCREENSHOT", "")

pytestmark = pytest.mark.timeout(180 * PATIENCE)


@pytest.fixture
def server(no_leaks: None) -> Iterator[Shardd]:
    broker = Shardd(2)
    broker.start_text(CONFIG)
    yield broker
    broker.stop()


@pytest.fixture
def page() -> Iterator[Page]:
    with open_browser() as page:
        yield page


def join(dial: Dial, server: Shardd, user: str, name: str) -> WireClient:
    options: dict[str, Any] = {"user": user, "pass": "p", "name": name, "lang": "python3"}
    return dial(server).connect(version="2.16.0", **options)


class Traffic:
    """Publishers that go on, each at a pace of its own, until the end."""

    def __init__(self, clients: list[tuple[WireClient, bytes, int]]) -> None:
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=each) for each in clients]
        for thread in self._threads:
            thread.start()

    def _run(self, client: WireClient, subject: bytes, size: int) -> None:
        number = 0
        while not self._end.wait(0.01):
            number += 1
            for _ in range(size // 4 + number % 50):
                client.publish(subject, b"x" * size)

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def test_the_page_shows_sorts_and_filters(server: Shardd, page: Page, dial: Dial) -> None:
    taker = join(dial, server, "stock", "warehouse <b>1</b>")
    for number in range(5):
        taker.subscribe(b"orders.%d" % number, b"%d" % number)
    giver = join(dial, server, "shop", "web shop")
    giver.subscribe(b"stock.*", b"1", b"shops")
    for _ in range(7):
        giver.publish(b"orders.1", b"one")
    giver.ping()
    page.show(f"{server.monitoring}/", width=1280, height=1400, is_dark=False)
    page.wait("document.querySelectorAll('#connections tbody tr').length === 2")
    page.wait("document.getElementById('state').textContent === 'serving'")
    rows = "[...document.querySelectorAll('#connections tbody tr')]"
    # What a client calls itself is text.
    assert "warehouse <b>1</b>" in page.value(f"{rows}.map(row => row.innerText).join()")
    assert page.value("document.querySelectorAll('#connections b').length") == 0
    assert page.value("document.querySelectorAll('#processes tbody tr').length") == 4
    subscriptions = "[...document.querySelectorAll('#subscriptions tbody tr')]"
    assert page.value(f"{subscriptions}.length") == 6

    click = "[...document.querySelectorAll('#connections th button')]"
    page.value(f"{click}.find(each => each.textContent === 'subs').click()")
    page.wait(f"{rows}[0].innerText.includes('warehouse')")
    page.value(f"{click}.find(each => each.textContent === 'in').click()")
    page.wait(f"{rows}[0].innerText.includes('web shop')")

    enter = "(id, text) => {{ const field = document.getElementById(id); field.value = text;"
    enter += "field.dispatchEvent(new Event('input')); }}"
    page.value(f"({enter.format()})('connections-filter', 'stock')")
    page.wait(f"{rows}.length === 1 && {rows}[0].innerText.includes('warehouse')")
    page.value(f"({enter.format()})('subscriptions-test', 'stock.apples')")
    page.wait(f"{subscriptions}.length === 1 && {subscriptions}[0].innerText.includes('shops')")
    assert page.complaints == [], page.complaints


def test_rates_are_those_of_the_traffic(server: Shardd, page: Page, dial: Dial) -> None:
    taker = join(dial, server, "station", "forecast")
    taker.subscribe(b"weather.>", b"1")
    pairs = [(join(dial, server, "station", "mast north"), b"weather.north", 64)]
    readers = [taker]
    if PICTURE:
        for number in range(1, 13):
            buyer = join(dial, server, "shop", f"till {number}")
            pairs.append((buyer, b"orders.shop%d" % (number % 4), 8 * number))
        for name in ("warehouse", "billing", "archive"):
            reader = join(dial, server, "stock", name)
            reader.subscribe(b"orders.*", b"1")
            reader.subscribe(b"audit.>", b"2", b"auditors")
            readers.append(reader)
    traffic = Traffic(pairs)
    drains = [threading.Thread(target=reader.read_to_end) for reader in readers]
    for drain in drains:
        drain.start()
    try:
        page.show(f"{server.monitoring}/", width=1280, height=1500, is_dark=False)
        page.wait("past.length >= 3 && past.at(-1).in_msgs > 100")
        assert page.value("past.at(-1).out_msgs") > 100
        assert page.value("document.querySelectorAll('polyline').length") == 4
        if PICTURE:
            page.wait("past.length >= 100", 170)
            Path(PICTURE).write_bytes(page.picture())
            page.show(f"{server.monitoring}/", width=1280, height=1480, is_dark=True)
            page.wait("past.length >= 5")
            Path(PICTURE).with_suffix(".dark.png").write_bytes(page.picture())
    finally:
        traffic.stop()
        for reader in readers:
            reader.socket.shutdown(2)
        for drain in drains:
            drain.join()
    assert page.complaints == [], page.complaints


# Has the page note down the moment of each look and the rates that it shows then.
NOTE: Final = """
globalThis.looks = [];
{
  const shown = note_varz;
  note_varz = varz => {
    shown(varz);
    looks.push({now: Date.parse(varz.now), rates: past.at(-1), in_msgs: varz.in_msgs});
  };
}
0"""
COUNTERS: Final = ("in_msgs", "out_msgs", "in_bytes", "out_bytes")


LOAD: Final = (
    *("--user", "shop", "--password", "p", "--json", "--pub", "3", "--sub", "2"),
    *("--size", "100", "--rate", "2000", "--duration", "4s"),
)


def sums_of(looks: list[tuple[float, dict[str, float]]]) -> dict[str, float]:
    """What rates over the times between looks come to."""
    return {
        name: sum(
            after[1][name] * (after[0] - before[0]) for before, after in itertools.pairwise(looks)
        )
        for name in COUNTERS
    }


@pytest.mark.slow
def test_page_top_and_metrics_agree_with_what_a_load_generator_sent(
    server: Shardd, page: Page, tmp_path: Path
) -> None:
    """Rates are added up over the times that they stand for, so nothing depends on the pace."""
    page.show(f"{server.monitoring}/", width=1280, height=1400, is_dark=False)
    page.value(NOTE)
    shardd = [sys.executable, "-m", "shardd"]
    lines = tmp_path / "top"
    with lines.open("wb") as file:
        top = subprocess.Popen(
            [*shardd, "top", "--json", "-d", "0.3", "-m", server.monitoring], stdout=file
        )
    try:
        page.wait("looks.length >= 2")
        wait_until(lambda: lines.read_bytes().count(b"\n") >= 2, "two looks of top")
        load = subprocess.Popen(
            [*shardd, "bench", "orders.new", "-s", server.url, *LOAD],
            stdout=subprocess.PIPE,
        )
        try:
            rows = "[...document.querySelectorAll('#connections tbody tr')]"
            page.wait(f"{rows}.filter(row => row.innerText.includes('shardd bench')).length === 5")
            assert page.picture().startswith(b"\x89PNG")
            out, _ = load.communicate(timeout=60 * PATIENCE)
        finally:
            load.kill()
            load.wait()
        found = json.loads(out)
        sent, got = found["published"], found["received"]
        counts = [sent["messages"], got["messages"], sent["bytes"], got["bytes"]]
        assert counts == [8000, 16_000, 800_000, 1_600_000]
        expected = dict(zip(COUNTERS, counts, strict=True))

        varz = document(server, "varz")
        assert {name: varz[name] for name in COUNTERS} == expected
        processes = document(server, "processz")["processes"]
        assert sum(row["messages_in"] for row in processes) == 8000
        metrics: dict[str, float] = {}
        for family in text_string_to_metric_families(fetch(server, "metrics")[1]):
            for sample in family.samples:
                metrics[sample.name] = metrics.get(sample.name, 0.0) + sample.value
        for of in ("shardd", "shardd_account"):
            names = [f"{of}_{what}_total" for what in ("messages_received", "messages_sent")]
            names += [f"{of}_{what}_total" for what in ("bytes_received", "bytes_sent")]
            assert [metrics[name] for name in names] == counts

        page.wait("looks.length && looks.at(-1).in_msgs === 8000")
        noted = page.value("looks")
        shown = sums_of([(each["now"] / 1000, each.get("rates") or {}) for each in noted])
        assert shown == pytest.approx(expected)

        def last_look() -> dict[str, Any]:
            whole, _, _ = lines.read_bytes().rpartition(b"\n")
            look: dict[str, Any] = json.loads(whole.splitlines()[-1])
            return look

        wait_until(lambda: last_look()["varz"]["in_msgs"] == 8000, "top to have seen it all")
    finally:
        top.terminate()
        top.wait()
    told = [json.loads(line) for line in lines.read_bytes().split(b"\n")[:-1]]
    moments = [(each["varz"]["now"], each["varz"]["rates"]) for each in told]
    assert sums_of([(seconds(now), rates) for now, rates in moments]) == pytest.approx(expected)
    assert page.complaints == [], page.complaints


def seconds(moment: str) -> float:
    """Of RFC 3339, whatever the number of digits behind the second."""
    whole, _, fraction = moment.removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")
