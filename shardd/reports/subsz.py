"""Who subscribes to what: `/subsz` (sheet 12.3), in two halves as `connz`.

Sans-IO. A row is one subscription: `account`, `account_tag`, `subject`, `qgroup` if it is in a
group, `sid`, `msgs`, `max` if it has one, `cid`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from shardd.moments import time_text
from shardd.reports.query import LIMIT, Query, QueryError, read_page

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SubszQuery:
    """What is wanted; `test` is a subject that the subscriptions shall match."""

    has_list: bool = False
    offset: int = 0
    limit: int = LIMIT
    account: str = ""
    test: str = ""

    def fields(self) -> dict[str, Any]:
        """As it travels to a worker; `SubszQuery(**fields)` makes it again."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class IndexFacts:
    """What one process's subject index counts. Sums and maxima over processes make the host's."""

    subscriptions: int = 0
    cached: int = 0
    inserts: int = 0
    removes: int = 0
    matches: int = 0
    cache_hits: int = 0
    fanout_max: int = 0
    fanout_total: int = 0  # over `cached` results
    matching: int = 0  # subscriptions that the query means
    rows: list[Row] = field(default_factory=list)


def read_query(query: Query) -> SubszQuery:
    """The query of an HTTP request. Raises QueryError."""
    has_list = query.boolean("subs")
    offset, limit = read_page(query)
    test = query.text("test")
    if test and not is_test_subject(test):
        raise QueryError(f"invalid test subject, must be valid publish subject: {test}")
    return SubszQuery(has_list, offset, limit, query.text("acc"), test)


def is_test_subject(subject: str) -> bool:
    """Whether something can be published to it."""
    tokens = subject.split(".")
    return all(token and token not in ("*", ">") for token in tokens) and " " not in subject


def matches(pattern: str, subject: str) -> bool:
    """Whether a subscription to `pattern` gets what is published to `subject` (sheet 4.1)."""
    wanted = pattern.split(".")
    tokens = subject.split(".")
    for place, token in enumerate(wanted):
        if token == ">" and place == len(wanted) - 1:
            return len(tokens) > place
        if place >= len(tokens) or token not in ("*", tokens[place]):
            return False
    return len(wanted) == len(tokens)


def collide(pattern: str, other: str) -> bool:
    """Whether some subject matches both patterns; one that is not valid meets nothing."""
    ours, theirs = pattern.split("."), other.split(".")
    if "" in ours or "" in theirs:
        return False
    for mine, yours in zip(ours, theirs, strict=False):
        if ">" in (mine, yours):
            return True
        if "*" not in (mine, yours) and mine != yours:
            return False
    return len(ours) == len(theirs)


def is_wanted(row: Row, query: SubszQuery) -> bool:
    """Whether the query means this subscription."""
    if query.account and row["account"] != query.account:
        return False
    return not query.test or matches(row["subject"], query.test)


def pick(rows: Iterable[Row], query: SubszQuery) -> tuple[int, list[Row]]:
    """How many of a process's subscriptions are meant, and those that the page may show."""
    count = query.offset + query.limit
    total = 0
    picked: list[Row] = []
    for row in rows:
        if is_wanted(row, query):
            total += 1
            if query.has_list and len(picked) < count:
                picked.append(row)
    return total, picked


def document(
    facts: Sequence[IndexFacts], query: SubszQuery, server_id: str, now_ns: int
) -> dict[str, Any]:
    """The page, from what all processes told."""
    rows = [row for each in facts for row in each.rows][query.offset :][: query.limit]
    result: dict[str, Any] = {"server_id": server_id, "now": time_text(now_ns)}
    result |= index_numbers(facts)
    result |= {
        "total": sum(each.matching for each in facts) if query.has_list else 0,
        "offset": query.offset,
        "limit": query.limit,
    }
    if rows:
        result["subscriptions_list"] = rows
    return result


def index_numbers(facts: Sequence[IndexFacts]) -> dict[str, Any]:
    """The numbers that `/subsz` and `/accountz` show of an index."""
    matches_made = sum(each.matches for each in facts)
    cached = sum(each.cached for each in facts)
    return {
        "num_subscriptions": sum(each.subscriptions for each in facts),
        "num_cache": cached,
        "num_inserts": sum(each.inserts for each in facts),
        "num_removes": sum(each.removes for each in facts),
        "num_matches": matches_made,
        "cache_hit_rate": _share(sum(each.cache_hits for each in facts), matches_made),
        "max_fanout": max((each.fanout_max for each in facts), default=0),
        "avg_fanout": _share(sum(each.fanout_total for each in facts), cached),
    }


def _share(part: int, whole: int) -> float:
    """A ratio as JSON has it in Go: 0 stays an integer."""
    share = part / whole if whole else 0.0
    return int(share) if share == int(share) else share
