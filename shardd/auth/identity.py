"""What a client proves itself with, and who it then is."""

from dataclasses import dataclass, field

from shardd import errors
from shardd.config.model import (
    GLOBAL_ACCOUNT,
    UNLIMITED,
    AccountLimits,
    ConnectionType,
    Permissions,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a client proves itself with."""

    user: str = ""
    password: str = field(default="", repr=False)
    auth_token: str = field(default="", repr=False)
    nkey: str = ""
    sig: str = field(default="", repr=False)
    jwt: str = field(default="", repr=False)
    nonce: str = field(default="", repr=False)  # what it was asked to sign
    connection_type: ConnectionType = ConnectionType.STANDARD
    certificate: bytes | None = field(default=None, repr=False)  # DER, verified by TLS
    unix_user: str = ""  # whom its uid stands for
    ip: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether it claims to be nobody in particular."""
        return not (self.user or self.password or self.auth_token or self.nkey or self.jwt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A client whose credentials are good."""

    account: str = GLOBAL_ACCOUNT
    user: str = ""  # as the log names it; empty: nobody in particular
    key: str = ""  # what the user's limits go by
    permissions: Permissions | None = None
    max_subscriptions: int = UNLIMITED
    max_payload: int = UNLIMITED
    account_limits: AccountLimits = field(default_factory=AccountLimits)
    expires_at: float | None = None  # unix seconds
    expiry_text: str = errors.ERR_USER_EXPIRED
    is_system: bool = False
    is_nkey: bool = False  # the log says so
