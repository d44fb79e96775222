"""What the streaming client raises. Texts are those of the Go client, or the server's own."""


class StreamingError(Exception):
    """The root of every error that the streaming client raises itself."""


class NatsError(StreamingError):
    """The NATS connection below cannot do what is asked; the cause is nats-py's error."""


class MalformedReplyError(StreamingError):
    """A server answered with bytes that are no answer."""


class RefusedError(StreamingError):
    """The server said no; the message is its text."""


class ClientIdInUseError(RefusedError):
    """A client with this id is connected and alive."""


class RequestTimeoutError(StreamingError, TimeoutError):
    """A server did not answer in time, or nobody listens. It may have done what was asked."""

    def __init__(self, text: str, *, is_nobody_there: bool = False) -> None:
        super().__init__(text)
        self.is_nobody_there = is_nobody_there


class PublishTimeoutError(RequestTimeoutError):
    """No ack came in time: the message may be stored or not."""

    def __init__(self) -> None:
        super().__init__("stan: publish ack timeout")


class ConnectionClosedError(StreamingError):
    """The streaming connection was closed. A message that waited for its ack may be stored."""

    def __init__(self, text: str = "stan: connection closed") -> None:
        super().__init__(text)


class ConnectionLostError(ConnectionClosedError):
    """The streaming connection was lost; the message says why. A message that waited for its ack
    may be stored."""


class SubscriptionClosedError(StreamingError):
    """The subscription was closed or unsubscribed before."""

    def __init__(self) -> None:
        super().__init__("stan: invalid subscription")


class ManualAckError(StreamingError):
    """A message of a subscription without `manual_ack` cannot be acknowledged by hand."""

    def __init__(self) -> None:
        super().__init__("stan: cannot manually ack in auto-ack mode")


_ID_IN_USE = "clientID already registered"


def refusal(text: str) -> RefusedError:
    """The error for a text that the server answered with."""
    return ClientIdInUseError(text) if _ID_IN_USE in text else RefusedError(text)
