"""What an account imports, worked out once: patterns here, patterns there, and how to get over.

No IO. `to` and `prefix` of an import are the importer's view; its subject is the exporter's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shardd import limits
from shardd.config import model
from shardd.transform import Transform, intersection

RESPONSE_MS_MAX: Final = int(limits.RESPONSE_S_MAX * 1000)


@dataclass(slots=True)
class Service:
    """One imported service, as the importing account sees it."""

    pattern: list[str]
    transform: Transform  # from here to there
    account: int  # of the exporter
    is_single: bool
    is_shared: bool  # the exporter is told who asks
    lives_ms: int  # how long a response may take


@dataclass(slots=True)
class StreamRoute:
    """One imported stream, as the importing account sees it."""

    account: int  # of the exporter
    source: list[str]  # the pattern there
    local: list[str]  # and here
    origin: list[int | None]  # for each token of the source, the one here that it is
    transform: Transform | None  # from there to here; None: nothing changes


def service_of(
    each: model.ServiceImport,
    account: int,
    exports: Sequence[model.StreamExport | model.ServiceExport],
) -> Service:
    """An import of a service, with what its export says of responses."""
    there = each.subject.split(".")
    export = next(
        (
            item
            for item in exports
            if isinstance(item, model.ServiceExport)
            and intersection(item.subject.split("."), there) is not None
        ),
        None,
    )
    here = each.to or each.subject
    is_single = export is None or export.response is model.ResponseType.SINGLETON
    threshold_s = export.threshold_s if export is not None else 0.0
    return Service(
        pattern=_pattern(here).split("."),
        transform=Transform(_pattern(here), _destination(here, each.subject)),
        account=account,
        is_single=is_single,
        is_shared=each.share,
        lives_ms=int(threshold_s * 1000) or RESPONSE_MS_MAX,
    )


def stream_route(each: model.StreamImport, account: int) -> StreamRoute:
    source = each.subject
    here = each.to or (f"{each.prefix.rstrip('.')}.{source}" if each.prefix else source)
    local = _pattern(here)
    # Which wildcard of the source each token here is.
    wildcards = [i for i, token in enumerate(source.split(".")) if token == "*"]
    origin: list[int | None] = [None] * len(source.split("."))
    counted = 0
    for index, token in enumerate(here.split(".")):
        number: int | None
        if token == "*":
            number = counted
            counted += 1
        else:
            number = _wildcard_number(token)
        if number is not None and number < len(wildcards):
            origin[wildcards[number]] = index
    return StreamRoute(
        account=account,
        source=source.split("."),
        local=local.split("."),
        origin=origin,
        transform=None if here == source else Transform(source, here),
    )


def reversed_pattern(route: StreamRoute, shared: Sequence[str]) -> bytes:
    """The pattern in the exporting account for a part of what it looks like here."""
    tokens: list[str] = []
    for index, token in enumerate(route.source):
        place = route.origin[index]
        if token == "*" and place is not None and place < len(shared):
            tokens.append(shared[place])
        elif token == ">":
            tail = shared[len(route.local) - 1 :] if route.local[-1] == ">" else [">"]
            tokens += tail or [">"]
        else:
            tokens.append(token)
    return ".".join(tokens).encode("utf-8", "surrogateescape")


def _wildcard_number(token: str) -> int | None:
    """Which wildcard a token stands for, from 0; None: none."""
    text = token.replace(" ", "")
    if text.startswith("$") and text[1:].isdigit():
        return int(text[1:]) - 1
    if text.lower().startswith("{{wildcard(") and text.endswith(")}}"):
        return int(text[11:-3]) - 1
    return None


def _pattern(text: str) -> str:
    """A subject with placeholders as a plain pattern."""
    return ".".join(
        "*" if _wildcard_number(token) is not None else token for token in text.split(".")
    )


def _destination(here: str, there: str) -> str:
    """The exporter's subject as a destination of the importer's pattern: its wildcards are filled
    with what the importer's placeholders of the same number matched."""
    numbers = []
    counted = 0
    for token in here.split("."):
        number = _wildcard_number(token)
        if number is None and token == "*":
            number = counted
            counted += 1
        if number is not None:
            numbers.append(number)
    tokens: list[str] = []
    seen = 0
    for token in there.split("."):
        if token == "*":
            place = numbers.index(seen) + 1 if seen in numbers else seen + 1
            tokens.append(f"${place}")
            seen += 1
        else:
            tokens.append(token)
    return ".".join(tokens)
