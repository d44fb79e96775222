"""Documents as bytes: JSON as nats-server's encoder writes it.

Two blanks a level where a person may look, one line where only programs do. Signs that mean
something in HTML are escaped, as Go does.
"""

import json
from typing import Any, Final

Document = dict[str, Any]

_ESCAPES: Final = str.maketrans(
    {
        "<": "\\u003c",
        ">": "\\u003e",
        "&": "\\u0026",
        "\u2028": "\\u2028",
        "\u2029": "\\u2029",
    }
)


def encode(document: Document) -> bytes:
    """For people: indented."""
    return _escaped(json.dumps(document, indent=2, ensure_ascii=False))


def encode_line(document: Document) -> bytes:
    """For programs: on one line."""
    return _escaped(json.dumps(document, separators=(",", ":"), ensure_ascii=False))


def _escaped(text: str) -> bytes:
    return text.translate(_ESCAPES).encode("utf-8", "surrogatepass")
