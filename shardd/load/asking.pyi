"""The Python face of the loops of request and reply."""

from collections.abc import Sequence

from shardd.load.histogram import Histogram
from shardd.load.links import Link
from shardd.load.page import Page

def request(
    links: Sequence[Link],
    frames: Sequence[bytes],
    stamps_at: Sequence[int],
    payload_bytes: int,
    page: Page,
    rate: float,
    messages: int,
    seconds: float,
    patience_s: float,
) -> tuple[Histogram, Histogram]: ...
def respond(
    links: Sequence[Link], page: Page, is_told: bool, messages: int, seconds: float
) -> None: ...
