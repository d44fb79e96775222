"""`queue_policies`: how members of queue groups are chosen, in the order in which they count."""

import re
from typing import Any, Final

from shardd.config.access import is_subject, subject_of
from shardd.config.model import PolicyKind, QueuePolicy
from shardd.config.reading import list_of, mismatch, read_section, setter, text_of
from shardd.config.tree import Entry, Section, Value

_POLICIES_MAX: Final = 1000  # each is tried, in turn, for every subject that is new
_HEADER: Final = re.compile(r"[!-9;-~]+")  # printable ASCII without a colon, as NATS headers have


def queue_policies_of(entry: Entry) -> tuple[QueuePolicy, ...]:
    """The list that has to stand here. Raises ConfigError."""
    values = list_of(entry)
    if len(values) > _POLICIES_MAX:
        raise entry.place.error(f"{entry.key}: more than {_POLICIES_MAX}")
    return tuple(_policy(value, entry) for value in values)


def _policy(value: Value, entry: Entry) -> QueuePolicy:
    if not isinstance(value.value, Section):
        raise mismatch(value.place, entry.key, "a list of blocks", value)
    fields: dict[str, Any] = {}
    section = value.value
    read_section(
        section,
        {
            "subject": setter(fields, "subject", subject_of),
            "group": setter(fields, "group", _group),
            "policy": setter(fields, "policy", _kind),
            "header": setter(fields, "header", _header),
            "account": setter(fields, "account", text_of),
        },
    )
    for key in ("subject", "policy"):
        if key not in fields:
            raise value.place.error(f"{entry.key}: an entry needs a {key}")
    if "header" in fields and fields["policy"] is not PolicyKind.STICKY:
        place = section.entries["header"].place
        raise place.error('header is the key of the policy "sticky" only')
    place = value.place
    return QueuePolicy(place=f"{place.file}:{place.line}:{place.column}", **fields)


def _group(entry: Entry) -> str:
    text = text_of(entry)
    if not is_subject(text):
        raise entry.place.error(f'group "{text}" is not a valid pattern of groups')
    return text


def _kind(entry: Entry) -> PolicyKind:
    text = text_of(entry)
    try:
        return PolicyKind(text.lower())
    except ValueError:
        known = ", ".join(PolicyKind)
        raise entry.place.error(f'policy "{text}" is not one of {known}') from None


def _header(entry: Entry) -> str:
    text = text_of(entry)
    if not _HEADER.fullmatch(text):
        raise entry.place.error(f'header "{text}" is not the name of a header')
    return text
