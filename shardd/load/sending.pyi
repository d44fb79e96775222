"""The Python face of the loops that publish."""

from collections.abc import Sequence

from shardd.load.histogram import Histogram
from shardd.load.links import Link
from shardd.load.page import Page

def flood(
    links: Sequence[Link],
    block: bytes,
    frames: int,
    payload_bytes: int,
    copies: int,
    credit: int,
    page: Page,
    seconds: float,
    patience_s: float,
) -> None: ...
def pace(
    links: Sequence[Link],
    frames: Sequence[bytes],
    stamp_at: int,
    payload_bytes: int,
    copies: int,
    page: Page,
    rate: float,
    messages: int,
    patience_s: float,
) -> Histogram: ...
