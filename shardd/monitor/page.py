"""The page at `/`: the server, live. The page itself is `page.html`, one file without a build."""

from importlib import resources
from typing import Final

# Its own script and style, the server's own documents, and nothing else.
HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


def page() -> str:
    """The page's text."""
    return resources.files("shardd.monitor").joinpath("page.html").read_text("utf-8")
