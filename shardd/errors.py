"""Errors, close reasons, wire error texts and exit codes, each written once.

Whose fault it is, is in the type: ``ProtocolError`` is the peer's, ``ConfigError`` and
``BootError`` the operator's, ``InternalError`` ours. Texts that a client can see are constants of
this file and match nats-server byte for byte; client libraries compare them.
"""

import enum
from typing import Final


class ShardError(Exception):
    """The root of every error that shardd raises itself."""


class ConfigError(ShardError):
    """The operator asked for something that cannot be; the message names the flag or the line, and
    is one line whatever it quotes. `more` are further lines, for a list."""

    def __init__(self, message: str, *more: str) -> None:
        super().__init__("\n".join(map(printable, (message, *more))))


def printable(text: str) -> str:
    """A text of unknown origin as it can stand on a terminal: no controls, one line."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


class BootError(ShardError):
    """A process could not start: a port in use, a limit too low, a file that cannot be written."""


class InternalError(ShardError):
    """An invariant of shardd's own does not hold; the process that sees it ends."""


class QuotaError(ShardError):
    """There are more users and accounts with limits of their own than a host counts."""


class CloseReason(enum.IntEnum):
    """Why a connection ended. The text is what nats-server reports in /connz (sheet 12.2)."""

    CLIENT_CLOSED = 1
    AUTHENTICATION_TIMEOUT = 2
    AUTHENTICATION_FAILURE = 3
    SLOW_CONSUMER_PENDING_BYTES = 4
    SLOW_CONSUMER_WRITE_DEADLINE = 5
    WRITE_ERROR = 6
    READ_ERROR = 7
    PARSE_ERROR = 8
    STALE_CONNECTION = 9
    PROTOCOL_VIOLATION = 10
    BAD_CLIENT_PROTOCOL_VERSION = 11
    MAXIMUM_CONNECTIONS_EXCEEDED = 12
    MAXIMUM_PAYLOAD_EXCEEDED = 13
    MAXIMUM_CONTROL_LINE_EXCEEDED = 14
    MAXIMUM_SUBSCRIPTIONS_EXCEEDED = 15
    SERVER_SHUTDOWN = 16
    MESSAGE_HEADER_VIOLATION = 17
    NO_RESPONDERS_REQUIRES_HEADERS = 18
    TLS_HANDSHAKE_FAILURE = 19
    MAXIMUM_ACCOUNT_CONNECTIONS_EXCEEDED = 20
    AUTHENTICATION_EXPIRED = 21
    MISSING_ACCOUNT = 22
    CREDENTIALS_REVOKED = 23
    # of routes
    DUPLICATE_ROUTE = 24
    ROUTE_REMOVED = 25
    DUPLICATE_SERVER_NAME = 26
    CLUSTER_NAME_CONFLICT = 27
    WRONG_PORT = 28
    KICKED = 29

    @property
    def text(self) -> str:
        """The reason as monitoring and logs spell it."""
        return _CLOSE_TEXTS[self]


_CLOSE_TEXTS: Final = {
    CloseReason.CLIENT_CLOSED: "Client Closed",
    CloseReason.AUTHENTICATION_TIMEOUT: "Authentication Timeout",
    CloseReason.AUTHENTICATION_FAILURE: "Authentication Failure",
    CloseReason.SLOW_CONSUMER_PENDING_BYTES: "Slow Consumer (Pending Bytes)",
    CloseReason.SLOW_CONSUMER_WRITE_DEADLINE: "Slow Consumer (Write Deadline)",
    CloseReason.WRITE_ERROR: "Write Error",
    CloseReason.READ_ERROR: "Read Error",
    CloseReason.PARSE_ERROR: "Parse Error",
    CloseReason.STALE_CONNECTION: "Stale Connection",
    CloseReason.PROTOCOL_VIOLATION: "Protocol Violation",
    CloseReason.BAD_CLIENT_PROTOCOL_VERSION: "Bad Client Protocol Version",
    CloseReason.MAXIMUM_CONNECTIONS_EXCEEDED: "Maximum Connections Exceeded",
    CloseReason.MAXIMUM_PAYLOAD_EXCEEDED: "Maximum Message Payload Exceeded",
    CloseReason.MAXIMUM_CONTROL_LINE_EXCEEDED: "Maximum Control Line Exceeded",
    CloseReason.MAXIMUM_SUBSCRIPTIONS_EXCEEDED: "Maximum Subscriptions Exceeded",
    CloseReason.SERVER_SHUTDOWN: "Server Shutdown",
    CloseReason.MESSAGE_HEADER_VIOLATION: "Message Header Violation",
    CloseReason.NO_RESPONDERS_REQUIRES_HEADERS: "No Responders Requires Headers",
    CloseReason.TLS_HANDSHAKE_FAILURE: "TLS Handshake Failure",
    CloseReason.MAXIMUM_ACCOUNT_CONNECTIONS_EXCEEDED: "Maximum Account Connections Exceeded",
    CloseReason.AUTHENTICATION_EXPIRED: "Authentication Expired",
    CloseReason.MISSING_ACCOUNT: "Missing Account",
    CloseReason.CREDENTIALS_REVOKED: "Credentials Revoked",
    CloseReason.DUPLICATE_ROUTE: "Duplicate Route",
    CloseReason.ROUTE_REMOVED: "Route Removed",
    CloseReason.DUPLICATE_SERVER_NAME: "Duplicate Server Name",
    CloseReason.CLUSTER_NAME_CONFLICT: "Cluster Name Conflict",
    CloseReason.WRONG_PORT: "Incorrect Port",
    CloseReason.KICKED: "Kicked",
}


class StoreError(ShardError):
    """A store cannot do what it must: what failed, and what to do about it."""


class StoreUnavailableError(StoreError):
    """A store cannot be reached now; it may be the next time, and nobody has to do anything."""


class DamageError(StoreError):
    """What was stored is not as it was written, and never will be; the text says what is lost."""


class ProtocolError(ShardError):
    """A peer broke the protocol: why its connection ends, and what it is told before that."""

    def __init__(self, reason: CloseReason, text: str | None, detail: str) -> None:
        super().__init__(detail)  # for the log
        self.reason = reason
        self.text = text  # between the quotes of -ERR '...'; None: closed without a word


# The texts between the quotes of -ERR '...' (sheet 3.1).
ERR_UNKNOWN_OPERATION: Final = "Unknown Protocol Operation"
ERR_AUTHORIZATION_VIOLATION: Final = "Authorization Violation"
ERR_AUTHENTICATION_TIMEOUT: Final = "Authentication Timeout"
ERR_USER_EXPIRED: Final = "User Authentication Expired"
ERR_ACCOUNT_EXPIRED: Final = "Account Authentication Expired"
ERR_ACCOUNT_REGISTRATION: Final = "Failed Account Registration"
ERR_TLS_REQUIRED: Final = "Secure Connection - TLS Required"
ERR_THROTTLED: Final = "Connection throttling is active. Please try again later."
ERR_MAX_CONNECTIONS: Final = "maximum connections exceeded"
ERR_MAX_ACCOUNT_CONNECTIONS: Final = "maximum account active connections exceeded"
ERR_MAX_SUBSCRIPTIONS: Final = "maximum subscriptions exceeded"
ERR_MAX_CONTROL_LINE: Final = "maximum control line exceeded"
ERR_MAX_PAYLOAD: Final = "Maximum Payload Violation"
ERR_STALE_CONNECTION: Final = "Stale Connection"
ERR_INVALID_CLIENT_PROTOCOL: Final = "invalid client protocol"
ERR_NO_RESPONDERS_HEADERS: Final = "no responders requires headers support"
ERR_INVALID_SUBJECT: Final = "Invalid Subject"
ERR_INVALID_PUBLISH_SUBJECT: Final = "Invalid Publish Subject"
ERR_CLIENT_ON_ROUTE_PORT: Final = "attempted to connect to route port"
ERR_CLUSTER_NAME: Final = 'Rejecting connection, cluster name "{theirs}" does not match "{ours}"'
ERR_NO_DEDICATED_ROUTE: Final = (
    'Not possible to have a dedicated route for account "{account}" between those servers'
)
ERR_NO_ACCOUNT_ROUTE: Final = 'No route for account "{account}"'
ERR_POOL_SIZE: Final = "Mismatch route pool size: {ours} vs {theirs}"
ERR_POOL_INDEX: Final = "Invalid route pool index: {index} - pool size is {size}"
ERR_PERMISSIONS_PUBLISH: Final = "Permissions Violation for Publish to {subject}"
ERR_PERMISSIONS_REPLY: Final = "Permissions Violation for Publish with Reply of {subject}"
ERR_PERMISSIONS_SUBSCRIBE: Final = "Permissions Violation for Subscription to {subject}"
ERR_PERMISSIONS_SUBSCRIBE_QUEUE: Final = (
    "Permissions Violation for Subscription to {subject} using queue {queue}"
)


class ExitCode(enum.IntEnum):
    """What the server's process returns. 0 and 1 are nats-server's; the others are shardd's."""

    CLEAN = 0
    CONFIGURATION = 1  # bad flag value, port in use, file not writable
    WORKER_BOOT_FAILED = 3  # a worker could not boot again and again; precedent: gunicorn's 3
    SUPERVISOR_FAULT = 4  # an invariant of the supervisor itself broke
    STORE_UNAVAILABLE = 5  # of a streaming worker: its store cannot be reached now
    STREAMING_TERMINATED = 143  # the original streaming server's after SIGTERM
