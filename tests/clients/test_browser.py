"""The official client in a real browser, over WebSocket: what only a browser has are origins and
cookies that it sends by itself."""

import http.server
import json
import queue
import shutil
import subprocess
import tempfile
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from shardd.auth.nkeys import KeyRole
from tests.support.broker import free_port
from tests.support.fixtures import Serve
from tests.support.nkeys import KeyPair, account_jwt, operator_jwt, user_jwt
from tests.support.programs import browser_page
from tests.support.waiting import PATIENCE

Visit = Callable[..., dict[str, Any]]

SEEN: Final = {"answer": "hello", "header": "trial", "large": 200_000}
BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")


class Site:
    """A web site on loopback: one page, and where it posts its result."""

    def __init__(self, script: bytes) -> None:
        self.results: queue.Queue[dict[str, Any]] = queue.Queue()
        self.cookie = ""
        site = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                is_script = self.path.endswith(".js")
                page = b"<!doctype html><script type=module src=/page.js></script>"
                self.send_response(200)
                self.send_header("Content-Type", "text/javascript" if is_script else "text/html")
                if site.cookie:
                    self.send_header("Set-Cookie", site.cookie)
                self.end_headers()
                self.wfile.write(script if is_script else page)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(204)
                self.end_headers()
                site.results.put(json.loads(body))

            def log_message(self, *_: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self.server.server_address[1]
        self._thread = threading.Thread(target=self.server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self._thread.join()
        self.server.server_close()


@pytest.fixture(scope="module")
def browser() -> str:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no browser is installed: one of " + ", ".join(BROWSERS))
    return found


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site(browser_page().read_bytes())
    yield site
    site.close()


@pytest.fixture
def visit(browser: str, site: Site) -> Visit:
    """``visit(scenario)``: what the page saw."""

    def open_page(scenario: dict[str, Any], cookie: str = "") -> dict[str, Any]:
        site.cookie = cookie
        address = f"http://127.0.0.1:{site.port}/#{urllib.parse.quote(json.dumps(scenario))}"
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
            process = subprocess.Popen(
                [
                    browser,
                    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                    *("--disable-dev-shm-usage", f"--user-data-dir={profile}", address),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                return site.results.get(timeout=60 * PATIENCE)
            finally:
                process.terminate()
                process.wait()

    return open_page


def test_a_page_publishes_and_listens(serve: Serve, visit: Visit) -> None:
    port = free_port()
    serve(
        f"""authorization {{ user: me, password: pw }}
        websocket {{ listen: "127.0.0.1:{port}", no_tls: true, compression: true }}"""
    )
    scenario = {"servers": f"ws://127.0.0.1:{port}", "user": "me", "pass": "pw"}
    assert visit(scenario) == SEEN
    assert visit({**scenario, "pass": "no"})["error"] == "AuthorizationError"


@pytest.mark.slow
@pytest.mark.parametrize("is_allowed", [True, False], ids=["allowed", "not allowed"])
def test_a_page_comes_from_where_it_comes_from(
    serve: Serve, visit: Visit, site: Site, is_allowed: bool
) -> None:
    port = free_port()
    origin = f"http://127.0.0.1:{site.port}" if is_allowed else "http://elsewhere.example"
    serve(
        f"""websocket {{ listen: "127.0.0.1:{port}", no_tls: true,
            allowed_origins: ["{origin}"] }}"""
    )
    result = visit({"servers": f"ws://127.0.0.1:{port}"})
    assert result == SEEN if is_allowed else "error" in result


@pytest.mark.slow
def test_a_page_of_another_origin_is_refused_where_all_have_to_be_the_same(
    serve: Serve, visit: Visit
) -> None:
    port = free_port()
    serve(f'websocket {{ listen: "127.0.0.1:{port}", no_tls: true, same_origin: true }}')
    assert "error" in visit({"servers": f"ws://127.0.0.1:{port}"})


@pytest.mark.slow
def test_a_cookie_of_the_site_proves_who_it_is(serve: Serve, visit: Visit) -> None:
    port = free_port()
    operator, account, user = (
        KeyPair(role, 21) for role in (KeyRole.OPERATOR, KeyRole.ACCOUNT, KeyRole.USER)
    )
    serve(
        f"""operator: {operator_jwt(operator)}
        resolver: MEMORY
        resolver_preload {{ {account.public}: "{account_jwt(operator, account)}" }}
        websocket {{ listen: "127.0.0.1:{port}", no_tls: true, jwt_cookie: "who" }}"""
    )
    scenario = {"servers": f"ws://127.0.0.1:{port}"}
    bearer = user_jwt(account, user, bearer_token=True)
    assert visit(scenario, f"who={bearer}; Path=/") == SEEN
    assert "error" in visit(scenario, "who=nobody; Path=/")
