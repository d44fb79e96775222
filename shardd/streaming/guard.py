"""NATS permissions for subscriptions to channels (`channel_permissions`).

All requests to subscribe go to one subject, and the channel stands in their payload: the permission
to publish there says nothing of channels. Where the broker is this server, its workers look into
the request of a user that has permissions, and ask for one more: to publish on the same subject
with the channel behind it. Publishes need nothing of that: their subject has the channel, and
the streaming workers refuse those whose payload names another one.
"""

from typing import Final

from shardd.streaming.messages import SubscriptionRequest
from shardd.streaming.subjects import is_channel

# Whatever the cluster id: a store that was taken over from the original may have subjects of its
# own behind this.
PREFIX: Final = b"_STAN.sub."


def channel_subject(subject: bytes, payload: bytes) -> bytes | None:
    """Where a user must be allowed to publish who sends this request; None for a request that no
    streaming server grants."""
    try:
        channel = SubscriptionRequest.decode(payload).subject
    except ValueError:
        return None
    return subject + b"." + channel if is_channel(channel) else None
