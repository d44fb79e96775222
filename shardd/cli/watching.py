"""Reading a server's monitoring over HTTP, for commands that look at it from anywhere.

Where it is asked is given as a URL, or found: the ports file's `monitoring` is not needed where the
only server of this host listens on the default port.
"""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import BadStatusLine, HTTPException
from typing import Any, Final

import click

from shardd.errors import ConfigError, ShardError, printable

DEFAULT_URL: Final = "http://127.0.0.1:8222"
_EXCERPT: Final = 200  # characters of what a server says instead of a document


class UnreachableError(ShardError):
    """Monitoring does not answer, or not as it should; the text says why."""


class Watched:
    """One server's monitoring.

    Args:
        url: where it is, its base path included.
        timeout_s: how long one answer may take.
        authorities: a file of certificates that HTTPS is trusted by; "": the system's.
    """

    def __init__(self, url: str, timeout_s: float, authorities: str = "") -> None:
        """Raises ConfigError when the certificates cannot be read."""
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self._timeout_s = timeout_s
        try:
            context = ssl.create_default_context(cafile=authorities or None)
        except OSError as error:  # SSLError is one
            raise ConfigError(f"{authorities}: {error.strerror or error}") from None
        # What is watched is in the own network: no proxy stands between.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def document(self, path: str) -> dict[str, Any]:
        """A document; that the server is not healthy is one too. Raises UnreachableError."""
        try:
            found = json.loads(self._read(path))
        except (OSError, ValueError, HTTPException, RecursionError) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(error, BadStatusLine) and not isinstance(error, OSError):
                reason = "what answers there does not speak HTTP"
            raise UnreachableError(f"{self.url}: {printable(str(reason))}") from None
        if not isinstance(found, dict):
            raise UnreachableError(f"{self.url}/{path}: not a document")
        return found

    def _read(self, path: str) -> bytes:
        try:
            with self._opener.open(f"{self.url}/{path}", timeout=self._timeout_s) as answer:
                text: bytes = answer.read()
                return text
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().strip()
            if path.startswith("healthz") and text.startswith(b"{"):
                return text
            said = printable(text[:_EXCERPT].decode("utf-8", "replace"))
            raise UnreachableError(f"{self.url}/{path}: {error.code} {said}") from None


def options(command: Any) -> Any:
    """The options of a command that watches."""
    for option in (
        click.option("--cacert", default="", metavar="FILE", help="Whom HTTPS is trusted by."),
        click.option(
            "--timeout",
            "timeout_s",
            default=5.0,
            show_default=True,
            type=click.FloatRange(min=0.01),
            help="Seconds that an answer may take.",
        ),
        click.option(
            "-m",
            "--monitor",
            "url",
            default=DEFAULT_URL,
            show_default=True,
            envvar="SHARDD_MONITOR",
            help="Where the server is watched.",
        ),
    ):
        command = option(command)
    return command


def change(
    new: Mapping[str, Any], old: Mapping[str, Any] | None, name: str, seconds: float
) -> float:
    """How much a counter grew in a second; 0 where it began anew."""
    if old is None or seconds <= 0:
        return 0.0
    grown: float = new[name] - old[name]
    return max(0.0, grown / seconds)
