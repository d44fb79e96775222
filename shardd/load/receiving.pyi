"""The Python face of the loop that counts what arrives."""

from collections.abc import Sequence

from shardd.load.histogram import Histogram
from shardd.load.links import Link
from shardd.load.page import Page

def tally(
    links: Sequence[Link],
    page: Page,
    is_stamped: bool,
    is_told: bool,
    messages: int,
    seconds: float,
    patience_s: float,
) -> Histogram: ...
