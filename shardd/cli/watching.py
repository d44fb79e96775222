"""Reading a server's monitoring over HTTP, for commands that look at it from anywhere.

Where it is asked is given as a URL, or found: the ports file's `monitoring` is not needed where the
only server of this host listens on the default port.
"""

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

import click

from shardd.errors import ShardError

DEFAULT_URL: Final = "http://127.0.0.1:8222"


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
        self.url = (url if "://" in url else f"http://{url}").rstrip("/")
        self._timeout_s = timeout_s
        context = ssl.create_default_context(cafile=authorities or None)
        # What is watched is in the own network: no proxy stands between.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
        )

    def document(self, path: str) -> dict[str, Any]:
        """A document; that the server is not healthy is one too. Raises UnreachableError."""
        try:
            with self._opener.open(f"{self.url}/{path}", timeout=self._timeout_s) as answer:
                found = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return self._refused(path, error)
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or error
            raise UnreachableError(f"{self.url}: {reason}") from None
        if not isinstance(found, dict):
            raise UnreachableError(f"{self.url}/{path}: not a document")
        return found

    def _refused(self, path: str, error: urllib.error.HTTPError) -> dict[str, Any]:
        text = error.read().decode("utf-8", "replace").strip()
        if path.startswith("healthz") and text.startswith("{"):
            found: dict[str, Any] = json.loads(text)
            return found
        raise UnreachableError(f"{self.url}/{path}: {error.code} {text}")


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
