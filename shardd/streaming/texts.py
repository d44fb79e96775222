"""The error texts of NATS Streaming that clients see and compare, byte for byte (sheet 18)."""

from typing import Final

INVALID_CONNECTION: Final = "stan: invalid connection request"
INVALID_CLIENT_ID: Final = (
    "stan: invalid clientID: only alphanumeric and `-` or `_` characters allowed"
)
CLIENT_REGISTERED: Final = "stan: clientID already registered"
CLIENT_REPLACED: Final = "client has been replaced or is no longer registered"
CLIENT_ID_MISSING: Final = "stan: clientID missing"
UNKNOWN_CLIENT: Final = "stan: unknown clientID"

INVALID_PUBLISH: Final = "stan: invalid publish request"
TOO_MANY_CHANNELS: Final = "too many channels"
CHANNEL_BEING_DELETED: Final = "stan: channel is being deleted"
# The spelling is the original's.
CHANNEL_CASE: Final = (
    'rejecting channel "{theirs}" because channel "{ours}" alreay exists'
    " (different cases not allowed)"
)

INVALID_SUBSCRIPTION_REQUEST: Final = "stan: invalid subscription request"
INVALID_ACK_WAIT: Final = "stan: invalid ack wait time, should be >= 1s"
INVALID_MAX_IN_FLIGHT: Final = "stan: invalid MaxInflight, should be >= 1"
INVALID_START_POSITION: Final = "stan: invalid start position"
INVALID_SUBJECT: Final = "stan: invalid subject"
DURABLE_WITH_COLON: Final = (
    "stan: durable name of a durable queue subscriber can't contain the character ':'"
)
DUPLICATE_DURABLE: Final = "stan: duplicate durable registration"
TOO_MANY_SUBSCRIPTIONS: Final = "too many subscriptions per channel"

INVALID_UNSUBSCRIBE: Final = "stan: invalid unsubscribe request"
UNKNOWN_CHANNEL: Final = "stan: unknown channel"
INVALID_SUBSCRIPTION: Final = "stan: invalid subscription"
INVALID_CLOSE: Final = "stan: invalid close request"

SECOND_SERVER: Final = 'discovered another streaming server with cluster ID "{cluster}"'
OTHER_CLUSTER: Final = (
    'cluster ID "{asked}" does not match recovered value of "{stored}": start it with the stored'
    " one, or with another store"
)
