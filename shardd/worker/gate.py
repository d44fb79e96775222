"""Who may come in, as one worker applies it: credentials in, an `Admission` out.

The authenticator says who a client is; the gate adds what this host knows of that user: the number
of its account, its permissions compiled, its account's imports and mappings, and its limits, which
count over all workers. A connection copies what it needs into typed fields and asks no more.

A reload makes a new gate; the old one still answers how a connection came in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from shardd import errors, limits
from shardd.auth.authenticator import Authenticator, Verdict
from shardd.auth.identity import Credentials, Identity
from shardd.config.core import Config
from shardd.config.model import ConnectionType, UseLimits
from shardd.config.model import Permissions as PermissionRules
from shardd.errors import CloseReason, ProtocolError, QuotaError
from shardd.quotas import Quotas
from shardd.router.permissions import Permissions
from shardd.router.spaces import Space, Spaces

# Compiled permissions kept for the next client of the same user; claims can name any number.
_COMPILED_MAX: Final = 1024
_NO_LIMITS: Final = UseLimits()


@dataclass(frozen=True, slots=True)
class Charge:
    """One limit on a rate that a connection is under; 0 is no limit."""

    entry: int  # of the host's quotas
    messages_per_s: int
    bytes_per_s: int


@dataclass(frozen=True, slots=True)
class Admission:
    """One client let in: what its connection needs to know of its user."""

    identity: Identity
    account: int
    permissions: Permissions | None
    space: Space | None
    # Entries of the host's quotas in which the connection counts, with their limit (-1: none).
    seats: tuple[tuple[int, int, str], ...]  # entry, limit, -ERR text when it is reached
    charges: tuple[Charge, ...]
    read_bytes_max: int = limits.READ_BYTES_MAX  # of one read: short where rates are limited


class Gate:
    """The way in of one worker. Used by its event loop; `identify` also by threads.

    Args:
        config: in force.
        account_ids: the number of every account.
        spaces: the accounts as this process's router sees them.
        quotas: of the host.
        process: this worker's slot.
        clock: the time, unix seconds.
    """

    def __init__(
        self,
        config: Config,
        account_ids: Mapping[str, int],
        spaces: Spaces,
        quotas: Quotas,
        process: int,
        clock: Callable[[], float],
    ) -> None:
        self._config = config
        self._account_ids = account_ids
        self._spaces = spaces
        self._quotas = quotas
        self._process = process
        self._clock = clock
        self._authenticator = Authenticator(config)
        self._compiled: dict[PermissionRules, Permissions] = {}
        self._admissions: dict[Identity, Admission] = {}

    @property
    def authenticator(self) -> Authenticator:
        """Who says who a client is."""
        return self._authenticator

    def anonymous(self, kind: ConnectionType) -> Identity | None:
        """Who a client is that has proved nothing; None: it has to."""
        return self._authenticator.anonymous(kind, self._clock())

    def is_slow(self, credentials: Credentials) -> bool:
        """Whether `identify` belongs into a thread."""
        return self._authenticator.is_slow(credentials)

    def identify(self, credentials: Credentials) -> Identity:
        """Who it is. Raises ProtocolError."""
        return self._authenticator.authenticate(credentials, self._clock())

    def recheck(
        self, identity: Identity, credentials: Credentials, previous: "Gate"
    ) -> tuple[Verdict, Identity]:
        """What a reload means for a client that the previous gate let in."""
        return self._authenticator.recheck(
            identity, credentials, previous.authenticator, self._clock()
        )

    def admit(self, identity: Identity) -> Admission:
        """Let a client in and count it. Raises ProtocolError when its user's or its account's
        connections are all in use."""
        admission = self._admission(identity)
        for index, (entry, limit, text) in enumerate(admission.seats):
            if not self._quotas.take_connection(entry, self._process, limit):
                for taken, _, _ in admission.seats[:index]:
                    self._quotas.give_connection(taken, self._process)
                raise ProtocolError(
                    CloseReason.MAXIMUM_ACCOUNT_CONNECTIONS_EXCEEDED,
                    text,
                    f"{identity.account}/{identity.user} has {limit} connections already",
                )
        return admission

    def leave(self, admission: Admission) -> None:
        """A client that was let in has gone."""
        for entry, _, _ in admission.seats:
            self._quotas.give_connection(entry, self._process)

    def _admission(self, identity: Identity) -> Admission:
        admission = self._admissions.get(identity)
        if admission is None:
            try:
                admission = self._make_admission(identity)
            except QuotaError as error:
                # Without its limits nobody comes in; those who are in stay.
                raise ProtocolError(
                    CloseReason.MAXIMUM_CONNECTIONS_EXCEEDED,
                    errors.ERR_MAX_CONNECTIONS,
                    str(error),
                ) from None
            if len(self._admissions) >= _COMPILED_MAX:
                self._admissions.clear()
            self._admissions[identity] = admission
        return admission

    def _make_admission(self, identity: Identity) -> Admission:
        account = self._account_ids.get(identity.account)
        if account is None:
            raise ProtocolError(
                CloseReason.MISSING_ACCOUNT,
                errors.ERR_AUTHORIZATION_VIOLATION,
                f'there is no account "{identity.account}"',
            )
        seats = []
        charges = []
        user_use = self._use_of(self._config.user_limits, identity.key)
        account_use = self._use_of(self._config.account_limits, identity.account)
        account_max = _least(identity.account_limits.max_connections, account_use.max_connections)
        account_entry = b"account " + identity.account.encode()
        user_entry = b"user " + identity.key.encode()
        if account_max >= 0:
            seats.append(
                (self._quotas.entry(account_entry), account_max, errors.ERR_MAX_ACCOUNT_CONNECTIONS)
            )
        if user_use.max_connections:
            seats.append(
                (
                    self._quotas.entry(user_entry),
                    user_use.max_connections,
                    errors.ERR_MAX_CONNECTIONS,
                )
            )
        for name, use in ((account_entry, account_use), (user_entry, user_use)):
            if use.publish_messages_per_s or use.publish_bytes_per_s:
                entry = self._quotas.entry(name)
                charges.append(Charge(entry, use.publish_messages_per_s, use.publish_bytes_per_s))
        return Admission(
            identity=identity,
            account=account,
            permissions=self._compile(identity.permissions),
            space=self._spaces.space(account),
            seats=tuple(seats),
            charges=tuple(charges),
            read_bytes_max=_longest_read(charges),
        )

    def _use_of(self, uses: Mapping[str, UseLimits], name: str) -> UseLimits:
        if not name:
            return _NO_LIMITS
        return uses.get(name) or uses.get("*") or _NO_LIMITS

    def _compile(self, rules: PermissionRules | None) -> Permissions | None:
        """One compiled object for all clients with the same permissions."""
        if rules is None:
            return None
        compiled = self._compiled.get(rules)
        if compiled is None:
            if len(self._compiled) >= _COMPILED_MAX:
                self._compiled.clear()
            compiled = self._compiled[rules] = Permissions(rules)
        return compiled


def _longest_read(charges: Sequence[Charge]) -> int:
    """As much as the strictest of these rates lets through in a part of a second."""
    longest = float(limits.READ_BYTES_MAX)
    for each in charges:
        messages_bytes = each.messages_per_s * limits.PUBLISH_BYTES_MIN
        for per_second in (messages_bytes, each.bytes_per_s):
            if per_second:
                longest = min(longest, per_second * limits.QUOTA_READ_S)
    return max(int(longest), limits.QUOTA_READ_BYTES_MIN)


def _least(first: int, second: int) -> int:
    """The lower of two limits; a negative first one and a second of 0 are none."""
    if second <= 0:
        return first
    return second if first < 0 else min(first, second)
