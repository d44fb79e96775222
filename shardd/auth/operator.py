"""Operator mode: users and accounts that prove themselves by claims an operator stands behind.

The operator's keys sign accounts, an account's keys sign its users (sheet 7). The accounts' claims
are those of `resolver_preload`. Nothing here is looked up elsewhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from shardd import errors
from shardd.auth import claims, nkeys
from shardd.auth.claims import Claims, ClaimsError
from shardd.auth.identity import Credentials, Identity
from shardd.auth.nkeys import KeyRole
from shardd.config.core import Config
from shardd.config.model import (
    Account,
    AccountLimits,
    MappedDestination,
    OperatorMode,
    Permissions,
    ResponseType,
    ServiceExport,
    ServiceImport,
    StreamExport,
    StreamImport,
    SubjectMapping,
)
from shardd.config.sharing import covers
from shardd.errors import CloseReason, ConfigError, ProtocolError

_BEGIN: Final = "-----BEGIN NATS OPERATOR JWT-----"
_NS: Final = 1_000_000_000
_RESPONSES: Final = {
    "singleton": ResponseType.SINGLETON,
    "stream": ResponseType.STREAM,
    "chunked": ResponseType.CHUNKED,
}


@dataclass(frozen=True, slots=True)
class OperatorAccount:
    """One account of operator mode: what the router needs, and who may sign its users."""

    account: Account
    claims: Claims
    signers: frozenset[str]
    scopes: Mapping[str, Mapping[str, Any]]  # signing key to the template of what it may grant
    revocations: Mapping[str, float]  # user key, or "*", to the time before which all are void
    refuses_bearers: bool = False  # a token alone is not enough


def accounts_of(config: Config) -> tuple[Account, ...]:
    """Every account that has users, imports or mappings, wherever it is configured.

    Raises:
        ConfigError: the claims of one cannot be read.
    """
    if config.operator is None:
        return config.all_accounts
    return tuple(each.account for each in read_accounts(config.operator).values())


def trusted_keys(mode: OperatorMode) -> frozenset[str]:
    """The keys that may sign accounts. Raises ConfigError."""
    keys = set(mode.trusted_keys)
    for text in mode.operators:
        try:
            found = claims.decode(_token_of(text))
        except ClaimsError as error:
            raise ConfigError(f"operator: {error}") from None
        if found.kind != "operator":
            raise ConfigError("operator: the JWT is not an operator's")
        keys.add(found.subject)
        keys.update(each for each in found.nats.get("signing_keys", []) if isinstance(each, str))
    return frozenset(keys)


def read_accounts(mode: OperatorMode) -> dict[str, OperatorAccount]:
    """The preloaded accounts by their public key. Raises ConfigError."""
    trusted = trusted_keys(mode)
    accounts = {}
    for key, token in mode.preload.items():
        try:
            found = claims.decode(token)
            if found.kind != "account" or found.subject != key:
                raise ClaimsError("the JWT is not this account's")
            if found.issuer not in trusted:
                raise ClaimsError("the JWT's issuer is not trusted")
            accounts[key] = _account(found)
        except ClaimsError as error:
            raise ConfigError(f"resolver_preload: {key}: {error}") from None
    return {key: _with_allowed_imports(each, accounts) for key, each in accounts.items()}


def _with_allowed_imports(
    each: OperatorAccount, accounts: Mapping[str, OperatorAccount]
) -> OperatorAccount:
    """The same without imports that nobody exports to it: claims cannot grant them to oneself."""
    imports = tuple(
        item for item in each.account.imports if _is_exported(item, each.account.name, accounts)
    )
    return replace(each, account=replace(each.account, imports=imports))


def _is_exported(
    item: StreamImport | ServiceImport, importer: str, accounts: Mapping[str, OperatorAccount]
) -> bool:
    """Whether the exporter offers this to the importer, by activation token where it asks for
    one."""
    exporter = accounts.get(item.account)
    if exporter is None:
        return False
    wanted = StreamExport if isinstance(item, StreamImport) else ServiceExport
    for export in exporter.account.exports:
        if not isinstance(export, wanted) or not covers(export.subject, item.subject):
            continue
        if export.token_position and not _names(item.subject, export.token_position, importer):
            continue
        if not export.token_required or _is_activated(item, importer, exporter):
            return True
    return False


def _names(subject: str, position: int, importer: str) -> bool:
    tokens = subject.split(".")
    return position <= len(tokens) and tokens[position - 1] == importer


def _is_activated(
    item: StreamImport | ServiceImport, importer: str, exporter: OperatorAccount
) -> bool:
    try:
        token = claims.decode(item.activation)
    except ClaimsError:
        return False
    subject = token.nats.get("subject") or token.nats.get("ImportSubject")
    return (
        token.kind == "activation"
        and token.subject == importer
        and token.issuer in exporter.signers
        and isinstance(subject, str)
        and covers(subject, item.subject)
    )


def _token_of(text: str) -> str:
    """The token in a file with or without its decoration."""
    if _BEGIN not in text:
        return text.strip()
    return text.partition(_BEGIN)[2].partition("-----")[0].strip()


def _account(found: Claims) -> OperatorAccount:
    nats = found.nats
    limits = nats.get("limits") or {}
    signers = {found.subject}
    scopes: dict[str, Mapping[str, Any]] = {}
    for each in nats.get("signing_keys") or []:
        if isinstance(each, str):
            signers.add(each)
        elif isinstance(each, dict) and isinstance(each.get("key"), str):
            signers.add(each["key"])
            scopes[each["key"]] = each.get("template") or {}
    account = Account(
        name=found.subject,
        exports=tuple(_export(each) for each in nats.get("exports") or []),
        imports=tuple(_import(each) for each in nats.get("imports") or []),
        mappings=tuple(
            SubjectMapping(source, tuple(_destination(each) for each in destinations))
            for source, destinations in (nats.get("mappings") or {}).items()
        ),
        limits=AccountLimits(
            max_connections=claims.limit_of(limits, "conn"),
            max_subscriptions=claims.limit_of(limits, "subs"),
            max_payload=claims.limit_of(limits, "payload"),
        ),
        default_permissions=claims.permissions_of(nats.get("default_permissions") or {}),
    )
    revocations = nats.get("revocations") or {}
    refuses_bearers = bool(limits.get("disallow_bearer"))
    return OperatorAccount(account, found, frozenset(signers), scopes, revocations, refuses_bearers)


def _export(each: Mapping[str, Any]) -> StreamExport | ServiceExport:
    position = int(each.get("account_token_position", 0))
    token_required = bool(each.get("token_req"))
    if each.get("type") == "service":
        return ServiceExport(
            subject=each["subject"],
            token_position=position,
            token_required=token_required,
            response=_RESPONSES.get(
                str(each.get("response_type", "")).lower(), ResponseType.SINGLETON
            ),
            threshold_s=each.get("response_threshold", 0) / _NS,
        )
    return StreamExport(
        subject=each["subject"], token_position=position, token_required=token_required
    )


def _import(each: Mapping[str, Any]) -> StreamImport | ServiceImport:
    """An import of claims. `subject` is the publisher's, so a service's is the importer's own, but
    for `local_subject`, which always is the importer's."""
    local = each.get("local_subject", "")
    token = each.get("token", "")
    if each.get("type") == "service":
        to = each.get("to", "")
        there, here = (to, each["subject"]) if to and not local else (each["subject"], local)
        return ServiceImport(
            account=each["account"],
            subject=there,
            to=here,
            share=bool(each.get("share")),
            activation=token,
        )
    return StreamImport(
        account=each["account"],
        subject=each["subject"],
        to=local,
        prefix="" if local else each.get("to", ""),
        activation=token,
    )


def _destination(each: Mapping[str, Any]) -> MappedDestination:
    return MappedDestination(
        each["subject"], int(each.get("weight", 0)) or 100, each.get("cluster", "")
    )


# --- users ------------------------------------------------------------------------------------


class OperatorAuthority:
    """Who is let in by claims.

    Args:
        mode: of the configuration.
        system_account: its public key, or empty.
    """

    def __init__(self, mode: OperatorMode, system_account: str) -> None:
        self._accounts = read_accounts(mode)
        self._system_account = system_account

    def authenticate(self, credentials: Credentials, now: float) -> Identity:
        """Who it is. Raises ProtocolError."""
        try:
            return self._identify(credentials, now)
        except ClaimsError as error:
            reason = str(error)
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # Whatever a stranger puts into a token is the stranger's fault, and costs nobody else.
            reason = f"the token makes no sense: {type(error).__name__}"
        raise ProtocolError(
            CloseReason.AUTHENTICATION_FAILURE,
            errors.ERR_AUTHORIZATION_VIOLATION,
            f"authentication error - {reason}",
        )

    def _identify(self, credentials: Credentials, now: float) -> Identity:
        if not credentials.jwt:
            raise ClaimsError("no user JWT was given")
        user = claims.decode(credentials.jwt)
        if user.kind != "user":
            raise ClaimsError("the JWT is not a user's")
        user.check_time(now)
        owner = self._owner(user)
        owner.claims.check_time(now)
        who = f'User JWT "{user.subject}"'
        for key in (user.subject, "*"):
            if owner.revocations.get(key, 0) >= user.issued_at:
                raise ClaimsError(f"{who} has been revoked")
        scope = owner.scopes.get(user.issuer)
        grants = user.nats if scope is None else scope
        if not claims.is_type_allowed(
            claims.connection_types_of(grants), credentials.connection_type
        ):
            raise ClaimsError(f"{who}: this type of connection is not allowed")
        if not claims.allows_address(grants, credentials.ip):
            raise ClaimsError(f"{who}: this address is not allowed")
        until = claims.allowed_until(grants, now)
        if not grants.get("bearer_token"):
            self._check_nonce(user, credentials)
        elif owner.refuses_bearers:
            raise ClaimsError(f"{who}: the account allows no bearer tokens")
        return self._make_identity(user, owner, grants, until)

    def _owner(self, user: Claims) -> OperatorAccount:
        """The account that a user belongs to."""
        key = user.nats.get("issuer_account") or user.issuer
        owner = self._accounts.get(key) if isinstance(key, str) else None
        if owner is None:
            raise ClaimsError("the account of the user JWT is not known")
        if user.issuer not in owner.signers:
            raise ClaimsError("the user JWT's issuer does not belong to its account")
        return owner

    def _check_nonce(self, user: Claims, credentials: Credentials) -> None:
        try:
            key = nkeys.decode_public_key(user.subject, KeyRole.USER)
        except ValueError:
            raise ClaimsError("the user JWT is not about a user's key") from None
        signature = nkeys.decode_signature(credentials.sig)
        if not credentials.nonce or not nkeys.is_signed(credentials.nonce.encode(), signature, key):
            raise ClaimsError(f'User JWT "{user.subject}": the signature does not verify')

    def _make_identity(
        self, user: Claims, owner: OperatorAccount, grants: Mapping[str, Any], until: float | None
    ) -> Identity:
        ends = [each for each in (user.expires_at, until) if each is not None]
        expires_at = min(ends) if ends else None
        text = errors.ERR_USER_EXPIRED
        account_end = owner.claims.expires_at
        if account_end is not None and (expires_at is None or account_end < expires_at):
            expires_at, text = account_end, errors.ERR_ACCOUNT_EXPIRED
        permissions = claims.permissions_of(grants) or owner.account.default_permissions
        if permissions is not None:
            permissions = _filled_in(permissions, user, owner)
        return Identity(
            account=owner.account.name,
            user=user.subject,
            key=user.subject,
            permissions=permissions,
            max_subscriptions=claims.limit_of(grants, "subs"),
            max_payload=claims.limit_of(grants, "payload"),
            account_limits=owner.account.limits,
            expires_at=expires_at,
            expiry_text=text,
            is_system=bool(self._system_account) and owner.account.name == self._system_account,
            is_nkey=True,
        )


def _filled_in(rules: Permissions, user: Claims, owner: OperatorAccount) -> Permissions:
    """A template's placeholders replaced by what the claims say of the user."""
    values = {
        "{{name()}}": user.name,
        "{{subject()}}": user.subject,
        "{{account-name()}}": owner.claims.name,
        "{{account-subject()}}": owner.account.name,
    }

    def fill(subjects: tuple[str, ...]) -> tuple[str, ...]:
        filled = []
        for subject in subjects:
            text = subject
            for placeholder, value in values.items():
                if placeholder in text and not value:
                    raise ClaimsError(f"nothing is known for {placeholder} of the template")
                text = text.replace(placeholder, value)
            if "{{" in text:
                # Not filled in it would match nothing, and a denied one would be allowed.
                raise ClaimsError("the template has a placeholder that is not known")
            filled.append(text)
        return tuple(filled)

    return replace(
        rules,
        publish=replace(
            rules.publish, allow=fill(rules.publish.allow), deny=fill(rules.publish.deny)
        ),
        subscribe=replace(
            rules.subscribe, allow=fill(rules.subscribe.allow), deny=fill(rules.subscribe.deny)
        ),
    )
