"""Who a client is: its credentials against the configuration (sheet 7).

No IO; the time is handed in. `authenticate` may take long where a bcrypt hash has to be compared,
which `is_slow` tells beforehand; it is safe to call from any thread.
"""

import enum
import hmac
from collections.abc import Mapping
from typing import Final

from shardd import errors
from shardd.auth import nkeys, passwords
from shardd.auth.identity import Credentials, Identity
from shardd.auth.operator import OperatorAuthority
from shardd.config.core import Config
from shardd.config.model import (
    GLOBAL_ACCOUNT,
    AccountLimits,
    ConnectionType,
    Permissions,
    User,
)
from shardd.errors import CloseReason, ProtocolError

_REDACTED: Final = "[REDACTED]"


class Verdict(enum.Enum):
    """What a reload means for a client that is in."""

    STAYS = "stays"  # maybe with other rights
    REMOVED = "removed"  # its user is gone
    REFUSED = "refused"  # its credentials are good no more
    ASK = "ask"  # it takes long to find out: `authenticate` in a thread


class Authenticator:
    """The users of one configuration.

    Args:
        config: checked.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._limits: Mapping[str, AccountLimits] = {
            account.name: account.limits for account in config.accounts
        }
        self._users = {user.name: user for user in config.users if not user.nkey}
        self._nkeys = {user.nkey: user for user in config.users if user.nkey}
        self._authority = (
            OperatorAuthority(config.operator, config.system_account) if config.operator else None
        )

    # --- questions before ----------------------------------------------------------------------

    def anonymous(self, kind: ConnectionType, now: float) -> Identity | None:
        """Who a client is that has proved nothing; None: it has to."""
        if self._is_open(kind):
            return self._identity(User(account=GLOBAL_ACCOUNT))
        name = self._no_auth_user(kind)
        user = self._users.get(name) or self._nkeys.get(name) if name else None
        return self._identity(user) if user is not None else None

    def is_slow(self, credentials: Credentials) -> bool:
        """Whether `authenticate` compares with a bcrypt hash."""
        if self._authority is not None:
            return False
        user, password, token = self._single(credentials.connection_type)
        if credentials.auth_token and token:
            return passwords.is_hash(token)
        if credentials.user and credentials.user == user:
            return passwords.is_hash(password)
        found = self._users.get(credentials.user)
        return found is not None and passwords.is_hash(found.password)

    # --- the answer ----------------------------------------------------------------------------

    def authenticate(self, credentials: Credentials, now: float) -> Identity:
        """Who it is. Raises ProtocolError with what the client is told and what the log says."""
        kind = credentials.connection_type
        if self._authority is not None:
            return self._authority.authenticate(credentials, now)
        if self._is_open(kind):
            return self._identity(User())
        user = self._user_of(credentials)
        if user is None:
            raise _violation(credentials)
        if user.connection_types and kind not in user.connection_types:
            raise _violation(credentials, f"connection type {kind} is not allowed")
        if user.proxy_required:
            raise _violation(credentials, "it has to come through a proxy")
        return self._identity(user)

    def recheck(
        self, identity: Identity, credentials: Credentials, previous: "Authenticator", now: float
    ) -> tuple[Verdict, Identity]:
        """What this configuration means for a client that the previous one let in.

        Whose entry is the same needs not prove itself again, so a reload costs no hash.
        """
        if self._authority is None and previous._authority is None:
            before = previous._entry(identity)
            after = self._entry(identity)
            if before is not None and after is None:
                return Verdict.REMOVED, identity
            if before is not None and after is not None and _same_proof(before, after):
                kind = credentials.connection_type
                if after.connection_types and kind not in after.connection_types:
                    return Verdict.REFUSED, identity
                if after.proxy_required:
                    return Verdict.REFUSED, identity
                return Verdict.STAYS, self._identity(after)
        if self.is_slow(credentials):
            return Verdict.ASK, identity
        try:
            return Verdict.STAYS, self.authenticate(credentials, now)
        except ProtocolError:
            return Verdict.REFUSED, identity

    # --- how -----------------------------------------------------------------------------------

    def _is_open(self, kind: ConnectionType) -> bool:
        """Whether nobody has to prove anything."""
        return not (self._users or self._nkeys or any(self._single(kind)) or self._authority)

    def _single(self, kind: ConnectionType) -> tuple[str, str, str]:
        """User, password and token of the server, or of the WebSocket listener if it has some."""
        websocket = self._config.websocket
        if (
            kind is ConnectionType.WEBSOCKET
            and websocket is not None
            and (websocket.user or websocket.token)
        ):
            return websocket.user, websocket.password, websocket.token
        way = self._config.authorization
        return way.user, way.password, way.token

    def _no_auth_user(self, kind: ConnectionType) -> str:
        websocket = self._config.websocket
        if kind is ConnectionType.WEBSOCKET and websocket is not None and websocket.no_auth_user:
            return websocket.no_auth_user
        return self._config.no_auth_user

    def _user_of(self, credentials: Credentials) -> User | None:
        """The user whose credentials these are."""
        if credentials.nkey and self._nkeys:
            return self._user_of_nkey(credentials)
        is_by_socket = credentials.is_empty and bool(credentials.unix_user)
        if self._maps_certificates(credentials) and not is_by_socket:
            # Users that certificates name need no password: without one nobody is let in.
            if credentials.certificate is None:
                return None
            # A server without TLS starts faster without it; one with TLS has it before it forks.
            from shardd.auth import certificates

            name = certificates.user_of(credentials.certificate, tuple(self._users))
            return self._users.get(name) if name is not None else None
        if credentials.is_empty:
            name = credentials.unix_user or self._no_auth_user(credentials.connection_type)
            if name:
                return self._users.get(name) or self._nkeys.get(name)
        found = self._users.get(credentials.user)
        if found is not None:
            return found if passwords.is_password(found.password, credentials.password) else None
        return self._single_user(credentials)

    def _single_user(self, credentials: Credentials) -> User | None:
        """The one user of a configuration without a list, by token or by name and password."""
        user, password, token = self._single(credentials.connection_type)
        if token:
            # An empty one is compared with nothing: `is_slow` has let it come here at once.
            if credentials.auth_token and passwords.is_password(token, credentials.auth_token):
                return User(name=_REDACTED, permissions=self._defaults)
        elif (
            user
            and hmac.compare_digest(user.encode(), credentials.user.encode())
            and passwords.is_password(password, credentials.password)
        ):
            return User(name=user, permissions=self._defaults)
        return None

    @property
    def _defaults(self) -> Permissions | None:
        return self._config.authorization.default_permissions

    def _maps_certificates(self, credentials: Credentials) -> bool:
        websocket = self._config.websocket
        if credentials.connection_type is ConnectionType.WEBSOCKET and websocket is not None:
            return websocket.tls is not None and websocket.tls.verify_and_map
        return self._config.tls is not None and self._config.tls.verify_and_map

    def _user_of_nkey(self, credentials: Credentials) -> User | None:
        user = self._nkeys.get(credentials.nkey)
        if user is None or not credentials.nonce:
            return None
        key = nkeys.decode_public_key(user.nkey, nkeys.KeyRole.USER)
        signature = nkeys.decode_signature(credentials.sig)
        return user if nkeys.is_signed(credentials.nonce.encode(), signature, key) else None

    def _entry(self, identity: Identity) -> User | None:
        """The entry that an identity came from, as this configuration has it."""
        if identity.key in self._nkeys:
            return self._nkeys[identity.key]
        if identity.key in self._users:
            return self._users[identity.key]
        way = self._config.authorization
        if identity.key == _REDACTED and way.token:
            return User(name=_REDACTED, password=way.token, permissions=self._defaults)
        if identity.key and identity.key == way.user:
            return User(name=way.user, password=way.password, permissions=self._defaults)
        if not identity.key and self._is_open(ConnectionType.STANDARD):
            return User()
        return None

    def _identity(self, user: User) -> Identity:
        return Identity(
            account=user.account,
            user=user.key,
            key=user.key,
            permissions=user.permissions,
            account_limits=self._limits.get(user.account, AccountLimits()),
            is_nkey=bool(user.nkey),
            is_system=bool(user.account) and user.account == self._config.system_account,
        )


def _same_proof(before: User, after: User) -> bool:
    return (
        before.password == after.password
        and before.nkey == after.nkey
        and before.account == after.account
    )


def _violation(credentials: Credentials, why: str = "") -> ProtocolError:
    """The refusal; the log names whoever it claimed to be, and no secret."""
    if credentials.nkey:
        who = f'Nkey "{credentials.nkey}"'
    elif credentials.user:
        who = f'User "{credentials.user}"'
    else:
        who = ""
    detail = "authentication error" + (f" - {who}" if who else "") + (f" - {why}" if why else "")
    return ProtocolError(
        CloseReason.AUTHENTICATION_FAILURE, errors.ERR_AUTHORIZATION_VIOLATION, detail
    )
