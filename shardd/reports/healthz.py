"""Whether the server serves: `/healthz` (sheet 12.3).

A server without JetStream is healthy once its listeners accept; the questions about JetStream are
answered as nats-server answers them with JetStream off.
"""

from typing import Any

from shardd.reports.query import Query


def answer(query: Query, *, is_ready: bool, why_not: str = "") -> tuple[int, dict[str, Any]]:
    """Status and document. Raises QueryError."""
    for name in ("js-enabled", "js-enabled-only", "js-server-only", "js-meta-only", "details"):
        query.boolean(name)
    has_details = query.boolean("details")
    if is_ready:
        return 200, {"status": "ok"}
    if has_details:
        return 500, {
            "status": "error",
            "status_code": 500,
            "errors": [{"type": "CONNECTION", "error": why_not}],
        }
    return 500, {"status": "error", "error": why_not}
