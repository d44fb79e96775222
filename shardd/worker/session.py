"""What a connection decides rarely: CONNECT, reserved names, and the texts of refusals.

No IO. The hot path reads the outcome from typed fields of the connection.
"""

import json
from typing import Final

from shardd import errors
from shardd.errors import CloseReason, ProtocolError
from shardd.worker.info import ConnectOptions, parse_connect

# Publishing here is the server's own business (sheet 4.2).
_RESERVED_SUBJECTS: Final = (b"_GR_.", b"$GR.", b"$NRG.")
_RESERVED_REPLIES: Final = (b"_R_.", b"$JS.ACK.", b"_GR_.", b"$GR.")
_RESERVED_QUEUE: Final = b"_sys_"

# Fields of CONNECT that never reach a log.
_SECRETS: Final = frozenset({"pass", "auth_token", "jwt", "sig", "proxy_sig"})

# Go's short escapes, for %q (sheet 3.1).
_ESCAPES: Final = {
    '"': '\\"',
    "\\": "\\\\",
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
}


def connect(data: bytes, previous: ConnectOptions) -> ConnectOptions:
    """Read a CONNECT and check what comes before its credentials.

    Args:
        data: the JSON.
        previous: the options in force, which fields that are absent leave as they are.

    Raises:
        ProtocolError: the JSON is broken, or asks for what cannot be.
    """
    options = parse_connect(data, previous)
    if options.account or options.new_account:
        raise ProtocolError(
            CloseReason.AUTHENTICATION_FAILURE,
            errors.ERR_AUTHORIZATION_VIOLATION,
            "CONNECT asks for an account by name",
        )
    return options


def check_options(options: ConnectOptions, serves_headers: bool) -> None:
    """Check what a client whose credentials are good asks for.

    Args:
        options: of its CONNECT.
        serves_headers: whether this server has headers at all.

    Raises:
        ProtocolError: it asks for what cannot be.
    """
    if options.protocol not in (0, 1):
        raise ProtocolError(
            CloseReason.BAD_CLIENT_PROTOCOL_VERSION,
            errors.ERR_INVALID_CLIENT_PROTOCOL,
            f"client protocol {options.protocol}",
        )
    if options.no_responders and not (options.headers and serves_headers):
        raise ProtocolError(
            CloseReason.NO_RESPONDERS_REQUIRES_HEADERS,
            errors.ERR_NO_RESPONDERS_HEADERS,
            "no responders without headers",
        )


def redacted(data: bytes) -> bytes:
    """A CONNECT's JSON for the log, without what it proves its right with."""
    try:
        options = json.loads(data)
    except (ValueError, RecursionError):
        return b"[not JSON]"
    if not isinstance(options, dict):
        return b"[not an object]"
    for name in options:
        if name.lower() in _SECRETS:
            options[name] = "[REDACTED]"
    return json.dumps(options).encode()


def is_info(data: bytes) -> bool:
    """Whether the argument of an INFO is what nats-server accepts and ignores: a JSON object."""
    try:
        return isinstance(json.loads(data), dict)
    except (ValueError, RecursionError):
        return False


# Whoever asks there is told who it is (sheet 14).
USER_INFO: Final = b"$SYS.REQ.USER.INFO"


def publish_refusal(subject: bytes, reply: bytes) -> str | None:
    """The -ERR text for a publish to a reserved subject or with a reserved reply, or None."""
    if subject.startswith(_RESERVED_SUBJECTS):
        return errors.ERR_PERMISSIONS_PUBLISH.format(subject=quote(subject))
    if reply.startswith(_RESERVED_REPLIES):
        return errors.ERR_PERMISSIONS_REPLY.format(subject=quote(reply))
    return None


def subscribe_refusal(subject: bytes, queue: bytes | None) -> str | None:
    """The -ERR text for a subscription in a reserved queue group, or None."""
    if queue == _RESERVED_QUEUE:
        return errors.ERR_PERMISSIONS_SUBSCRIBE_QUEUE.format(
            subject=quote(subject), queue=quote(queue)
        )
    return None


def publish_violation(subject: bytes) -> str:
    """The -ERR text for a publish that the user's permissions refuse."""
    return errors.ERR_PERMISSIONS_PUBLISH.format(subject=quote(subject))


def subscribe_violation(subject: bytes, queue: bytes | None, sid: bytes | None = None) -> str:
    """The -ERR text for a subscription that the user's permissions refuse; with its sid when it is
    an existing one that a reload takes away (sheet 3.1)."""
    if queue:
        text = errors.ERR_PERMISSIONS_SUBSCRIBE_QUEUE.format(
            subject=quote(subject), queue=quote(queue)
        )
    else:
        text = errors.ERR_PERMISSIONS_SUBSCRIBE.format(subject=quote(subject))
    return text if sid is None else f"{text} (sid {quote(sid)})"


def tokens_refusal(subject: bytes) -> str:
    """The -ERR text for a subscription with more tokens than allowed."""
    return errors.ERR_PERMISSIONS_SUBSCRIBE.format(subject=quote(subject)) + ", too many tokens"


def quote(data: bytes) -> str:
    """Bytes in double quotes as Go's %q prints them."""
    parts: list[str] = []
    for character in data.decode("utf-8", "surrogateescape"):
        code = ord(character)
        if character in _ESCAPES:
            parts.append(_ESCAPES[character])
        elif 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
            parts.append(f"\\x{code - 0xDC00:02x}")
        elif character.isprintable():
            parts.append(character)
        elif code < 0x80:
            parts.append(f"\\x{code:02x}")
        elif code < 0x10000:
            parts.append(f"\\u{code:04x}")
        else:
            parts.append(f"\\U{code:08x}")
    return '"' + "".join(parts) + '"'
