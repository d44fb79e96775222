"""Watching a server: its monitoring documents over HTTP, and what two servers' documents share.

A document is compared by its shape: names in their order, and the kinds of values. What is in
there is compared where it does not depend on the server or the moment.
"""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterable
from email.message import Message
from typing import Any, Final

from tests.support.broker import Broker
from tests.support.wireclient import WireClient

_TIMEOUT_S: Final = 20.0


def fetch(broker: Broker, path: str, tls: ssl.SSLContext | None = None) -> tuple[int, str, Message]:
    """Status, text and headers of an answer."""
    request = urllib.request.Request(f"{broker.monitoring}/{path}")
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=tls)
    )
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


def document(broker: Broker, path: str, tls: ssl.SSLContext | None = None) -> dict[str, Any]:
    """A document that is there."""
    status, text, _ = fetch(broker, path, tls)
    assert status == 200, f"{path}: {status} {text}"
    found: dict[str, Any] = json.loads(text)
    return found


def shape(value: Any, without: Iterable[str] = ()) -> Any:
    """Names in order with the kinds of their values; lists by their first entry."""
    if isinstance(value, dict):
        return [(name, shape(each, without)) for name, each in value.items() if name not in without]
    if isinstance(value, list):
        return [shape(value[0], without)] if value else []
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    return "number" if isinstance(value, int | float) else type(value).__name__


def ask(client: WireClient, subject: str, body: bytes = b"") -> dict[str, Any] | None:
    """What is answered to a request; None: nobody is there to answer.

    The client is one with headers and `no_responders`, that subscribes to nothing else.
    """
    inbox = f"_INBOX.{subject.replace('.', '-').replace('$', '')}.{len(body)}".encode()
    client.send(b"SUB %b asked\r\n" % inbox)
    client.publish(subject.encode(), body, inbox)
    line = client.expect_line().split()
    payload = client.read(int(line[-1]) + 2)[:-2]
    client.send(b"UNSUB asked\r\n")
    if line[0] == b"HMSG":
        return None
    found: dict[str, Any] = json.loads(payload)
    return found
