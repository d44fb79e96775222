"""What accounts share has to fit together: exports, imports, and no circles of them.

The rules and their texts are nats-server's, but for circles: those are found by following what a
message would do, from an import to the imports of its exporter.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from shardd.config.model import (
    Account,
    ServiceExport,
    ServiceImport,
    StreamExport,
    StreamImport,
)
from shardd.config.tree import Place
from shardd.transform import intersection

Import = StreamImport | ServiceImport

_PLACEHOLDER: Final = re.compile(r"\$[0-9]+|\{\{.*?\}\}")


def check_sharing(accounts: Sequence[Account], place: Place) -> None:
    """Raises ConfigError for the first export or import that cannot be."""
    known = {account.name: account for account in accounts}
    for account in accounts:
        for export in account.exports:
            _check_export(export, known, place)
        _check_duplicates(account, place)
        for each in account.imports:
            source = known.get(each.account)
            if source is None:
                raise place.error(f'"{each.account}" account not found')
            if not any(_lets_in(export, each, account.name) for export in source.exports):
                raise place.error(
                    f'Error adding {_kind(each)} import "{each.subject}": account not authorized'
                )
    for account in accounts:
        for each in account.imports:
            if _is_circle(each, [each], known):
                name = each.subject if isinstance(each, StreamImport) else each.to or each.subject
                raise place.error(
                    f'Error adding {_kind(each)} import "{name}": import forms a cycle'
                )


def _check_export(
    export: StreamExport | ServiceExport, known: dict[str, Account], place: Place
) -> None:
    kind = "stream" if isinstance(export, StreamExport) else "service"
    for name in export.accounts or ():
        if name not in known:
            raise place.error(f'"{name}" account not defined for {kind} export')
    if export.token_position:
        tokens = export.subject.split(".")
        position = export.token_position
        if not 1 <= position <= len(tokens) or tokens[position - 1] != "*":
            raise place.error(
                f'Error adding {kind} export "{export.subject}": token {position} of it, which is'
                " to name the importing account, is no wildcard"
            )


def _check_duplicates(account: Account, place: Place) -> None:
    """Two services under one name: it would not be clear who is asked."""
    seen: dict[str, ServiceImport] = {}
    for each in account.imports:
        if isinstance(each, ServiceImport):
            name = each.to or each.subject
            if name in seen:
                other = seen[name]
                raise place.error(
                    f'Duplicate service import subject "{name}", previously used in import for'
                    f' account "{other.account}", subject "{other.subject}"'
                )
            seen[name] = each


def _lets_in(export: StreamExport | ServiceExport, each: Import, importer: str) -> bool:
    """Whether this export is one of what is imported, for this importer."""
    wanted = StreamExport if isinstance(each, StreamImport) else ServiceExport
    if not isinstance(export, wanted) or not covers(export.subject, each.subject):
        return False
    if export.token_position:
        tokens = each.subject.split(".")
        return tokens[export.token_position - 1] == importer
    return export.accounts is None or importer in export.accounts


def _is_circle(each: Import, path: list[Import], known: dict[str, Account]) -> bool:
    """Whether what goes through this import can come to it again."""
    for further in _next(each, known[each.account]):
        if further is path[0]:
            return True
        if further not in path and _is_circle(further, [*path, further], known):
            return True
    return False


def _next(each: Import, exporter: Account) -> Iterator[Import]:
    """The imports of the exporter that bring in, in its turn, what this one takes there."""
    there = _plain(each.subject).split(".")
    for further in exporter.imports:
        if isinstance(further, type(each)) and intersection(_local(further), there) is not None:
            yield further


def _local(each: Import) -> list[str]:
    """What the importer calls it, as a pattern."""
    name = each.to or each.subject
    if isinstance(each, StreamImport) and each.prefix and not each.to:
        name = f"{each.prefix.rstrip('.')}.{each.subject}"
    return _plain(name).split(".")


def _plain(text: str) -> str:
    return _PLACEHOLDER.sub("*", text)


def _kind(each: Import) -> str:
    return "stream" if isinstance(each, StreamImport) else "service"


def covers(wide: str, narrow: str) -> bool:
    """Whether one pattern matches all that another one matches."""
    wide_tokens, narrow_tokens = wide.split("."), narrow.split(".")
    for index, token in enumerate(wide_tokens):
        if token == ">":
            return index < len(narrow_tokens)
        if index >= len(narrow_tokens) or narrow_tokens[index] == ">":
            return False
        if token != "*" and token != narrow_tokens[index]:
            return False
    return len(wide_tokens) == len(narrow_tokens)
