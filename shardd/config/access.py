"""The blocks that say who may come in and what for: authorization, users, permissions, accounts."""

from dataclasses import dataclass, field
from typing import Any

from shardd.config.model import (
    GLOBAL_ACCOUNT,
    Account,
    AccountLimits,
    Authorization,
    ConnectionType,
    MappedDestination,
    Permissions,
    ResponseRules,
    ResponseType,
    ServiceExport,
    ServiceImport,
    StreamExport,
    StreamImport,
    SubjectMapping,
    SubjectRules,
    User,
)
from shardd.config.reading import (
    Notes,
    boolean_of,
    duration_of,
    integer_of,
    list_of,
    mismatch,
    read_section,
    seconds_of,
    section_of,
    setter,
    text_of,
    texts_of,
)
from shardd.config.sharing import check_sharing
from shardd.config.tree import Entry, Place, Section, Value
from shardd.config.unserved import ACCOUNT_JETSTREAM, check_keys
from shardd.transform import Transform
from shardd.values import is_public_nkey


@dataclass(slots=True)
class Access:
    """What the blocks of this file make together."""

    authorization: Authorization = field(default_factory=Authorization)
    auth_timeout_s: float | None = None
    users: list[User] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)  # of users, by name or nkey

    def add(self, user: User, place: Place) -> None:
        """One user more. Raises ConfigError for a name that is taken."""
        if user.key in self.places:
            kind = "Nkey" if user.nkey else "User"
            raise place.error(f'Duplicate {kind.lower()} "{user.key}" detected')
        self.places[user.key] = place
        self.users.append(user)


# --- subjects and permissions -----------------------------------------------------------------


def is_subject(text: str) -> bool:
    """Whether this is a valid pattern (sheet 4.1)."""
    tokens = text.split(".")
    return (
        all(tokens)
        and ">" not in tokens[:-1]
        and not any(character in " \t\r\n\f" for character in text)
    )


def subject_of(entry: Entry) -> str:
    """The subject that has to stand here."""
    text = text_of(entry)
    if not is_subject(text):
        raise entry.place.error(f'subject "{text}" is not a valid subject')
    return text


def _subjects(entry: Entry, has_queues: bool) -> tuple[str, ...]:
    """One pattern or a list; in subscribe rules a queue pattern may follow."""
    texts = texts_of(entry)
    for text in texts:
        subject, *queue = (text.split() if has_queues else None) or [text]
        if not is_subject(subject) or len(queue) > 1 or text != text.strip():
            raise entry.place.error(f'subject "{text}" is not a valid subject')
        if queue and not is_subject(queue[0]):
            raise entry.place.error(f'queue "{queue[0]}" is not a valid queue')
    return texts


def _rules(entry: Entry, has_queues: bool) -> SubjectRules:
    if not isinstance(entry.value.value, Section):
        return SubjectRules(allow=_subjects(entry, has_queues))
    fields: dict[str, Any] = {}

    def allow(inner: Entry) -> None:
        fields["allow"] = _subjects(inner, has_queues)

    def deny(inner: Entry) -> None:
        fields["deny"] = _subjects(inner, has_queues)

    read_section(entry.value.value, {"allow": allow, "deny": deny})
    return SubjectRules(**fields)


def _responses(entry: Entry, notes: Notes) -> ResponseRules | None:
    value = entry.value.value
    if isinstance(value, bool):
        return ResponseRules() if value else None
    fields: dict[str, Any] = {}
    maximum = setter(fields, "max_messages", integer_of)
    expires = setter(fields, "expires_s", lambda inner: duration_of(inner, notes))
    read_section(
        section_of(entry),
        {
            **dict.fromkeys(("max", "max_msgs", "max_messages", "max_responses"), maximum),
            **dict.fromkeys(("expires", "expiration", "ttl"), expires),
        },
    )
    rules = ResponseRules(**fields)
    if rules.max_messages == 0 or rules.expires_s == 0:
        default = ResponseRules()
        return ResponseRules(
            rules.max_messages or default.max_messages, rules.expires_s or default.expires_s
        )
    return rules


def permissions_of(entry: Entry, notes: Notes) -> Permissions:
    """A `permissions` block."""
    fields: dict[str, Any] = {}
    publish = setter(fields, "publish", lambda inner: _rules(inner, has_queues=False))
    subscribe = setter(fields, "subscribe", lambda inner: _rules(inner, has_queues=True))
    responses = setter(fields, "responses", lambda inner: _responses(inner, notes))
    read_section(
        section_of(entry),
        {
            **dict.fromkeys(("publish", "pub", "import"), publish),
            **dict.fromkeys(("subscribe", "sub", "export"), subscribe),
            **dict.fromkeys(
                ("allow_responses", "allow_response", "publish_allow_responses"), responses
            ),
        },
    )
    return Permissions(**fields)


# --- users ------------------------------------------------------------------------------------


def _connection_types(entry: Entry) -> frozenset[ConnectionType]:
    types = set()
    for text in texts_of(entry):
        try:
            types.add(ConnectionType(text.upper()))
        except ValueError:
            raise entry.place.error(f'invalid connection type "{text}"') from None
    return frozenset(types)


def _user(value: Value, account: str, defaults: Permissions | None, notes: Notes) -> User:
    """One entry of a `users` list."""
    if not isinstance(value.value, Section):
        raise mismatch(value.place, "users", "a list of blocks", value)
    fields: dict[str, Any] = {}
    name = setter(fields, "name", text_of)
    password = setter(fields, "password", text_of)
    permissions = setter(fields, "permissions", lambda inner: permissions_of(inner, notes))
    types = setter(fields, "connection_types", _connection_types)
    read_section(
        value.value,
        {
            **dict.fromkeys(("user", "username"), name),
            **dict.fromkeys(("pass", "password"), password),
            "nkey": setter(fields, "nkey", _nkey),
            **dict.fromkeys(("permission", "permissions", "authorization"), permissions),
            **dict.fromkeys(("allowed_connection_types", "connection_types", "clients"), types),
            "proxy_required": setter(fields, "proxy_required", boolean_of),
        },
    )
    fields.setdefault("permissions", defaults)
    user = User(account=account, **fields)
    if user.nkey and (user.name or user.password):
        raise value.place.error("Nkey users do not take usernames or passwords")
    if not user.key:
        raise value.place.error("User entry requires a user")
    return user


def _nkey(entry: Entry) -> str:
    text = text_of(entry)
    if not is_public_nkey(text, "U"):
        raise entry.place.error("Not a valid public nkey for a user")
    return text


def _account_nkey(entry: Entry) -> None:
    """Checked only: accounts of a file go by their names."""
    if not is_public_nkey(text_of(entry), "A"):
        raise entry.place.error("Not a valid public nkey for an account")


def read_authorization(entry: Entry, access: Access, notes: Notes) -> None:
    """An `authorization` block: one user, or a token, or a list of users."""
    fields: dict[str, Any] = {}
    users: list[Value] = []
    user = setter(fields, "user", text_of)
    password = setter(fields, "password", text_of)
    defaults = setter(fields, "default_permissions", lambda inner: permissions_of(inner, notes))

    def timeout(inner: Entry) -> None:
        access.auth_timeout_s = seconds_of(inner)

    def callout(inner: Entry) -> None:
        raise inner.place.error("auth_callout is not served by this version of shardd")

    section = section_of(entry)
    read_section(
        section,
        {
            **dict.fromkeys(("user", "username"), user),
            **dict.fromkeys(("pass", "password"), password),
            "token": setter(fields, "token", text_of),
            "timeout": timeout,
            "users": lambda inner: users.extend(list_of(inner)),
            **dict.fromkeys(("default_permission", "default_permissions", "permissions"), defaults),
            "auth_callout": callout,
        },
    )
    authorization = Authorization(**fields)
    if authorization.token and (authorization.user or authorization.password):
        raise entry.place.error("Cannot have a user/pass and token")
    if authorization.token and users:
        raise entry.place.error("Can not have a token and a users array")
    if authorization.user and users:
        raise entry.place.error("Can not have a single user/pass and a users array")
    access.authorization = authorization
    for value in users:
        item = _user(value, GLOBAL_ACCOUNT, authorization.default_permissions, notes)
        access.add(item, value.place)


# --- accounts ---------------------------------------------------------------------------------


def read_accounts(entry: Entry, access: Access, notes: Notes) -> None:
    """An `accounts` block: names with their users, exports, imports, or a plain list of names."""
    value = entry.value.value
    if isinstance(value, list):
        for name in texts_of(entry):
            _add_account(access, Account(name=name), entry.place)
        return
    for item in section_of(entry):
        if not item.is_variable:
            _read_account(item, access, notes)
    check_sharing(access.accounts, entry.place)


def _add_account(access: Access, account: Account, place: Place) -> None:
    if account.name == GLOBAL_ACCOUNT:
        raise place.error(f'"{GLOBAL_ACCOUNT}" is a Reserved Account')
    if any(each.name == account.name for each in access.accounts):
        raise place.error(f'Duplicate Account Entry: "{account.name}"')
    access.accounts.append(account)


def _read_account(entry: Entry, access: Access, notes: Notes) -> None:
    fields: dict[str, Any] = {}
    users: list[Value] = []
    defaults: dict[str, Permissions] = {}
    note = notes.warnings.append

    def jetstream(inner: Entry) -> None:
        value = inner.value.value
        if isinstance(value, Section):
            check_keys(value, ACCOUNT_JETSTREAM)
        if value not in (False, "disabled", "disable"):
            note(f"{inner.place.file}:{inner.place.line}: JetStream is not served by shardd")

    def ignore(inner: Entry) -> None:
        """What concerns features that warn for themselves."""

    read_section(
        section_of(entry),
        {
            "users": lambda inner: users.extend(list_of(inner)),
            "nkey": _account_nkey,
            "exports": setter(fields, "exports", lambda inner: _exports(inner, notes)),
            "imports": setter(fields, "imports", _imports),
            **dict.fromkeys(("mappings", "maps"), setter(fields, "mappings", mappings_of)),
            "limits": setter(fields, "limits", _limits),
            "default_permissions": setter(
                defaults, "all", lambda inner: permissions_of(inner, notes)
            ),
            **dict.fromkeys(("jetstream", "js"), jetstream),
            **dict.fromkeys(("trace_dest", "msg_trace"), ignore),
        },
    )
    account = Account(name=entry.key, **fields)
    _add_account(access, account, entry.place)
    for value in users:
        access.add(_user(value, account.name, defaults.get("all"), notes), value.place)


def _limits(entry: Entry) -> AccountLimits:
    fields: dict[str, Any] = {}
    connections = setter(fields, "max_connections", integer_of)
    subscriptions = setter(fields, "max_subscriptions", integer_of)
    payload = setter(fields, "max_payload", integer_of)

    def ignore(inner: Entry) -> None:
        """Leaf nodes are not served."""
        integer_of(inner)

    read_section(
        section_of(entry),
        {
            **dict.fromkeys(("max_connections", "max_conn"), connections),
            **dict.fromkeys(("max_subscriptions", "max_subs"), subscriptions),
            **dict.fromkeys(("max_payload", "max_pay"), payload),
            **dict.fromkeys(("max_leafnodes", "max_leafs"), ignore),
        },
    )
    return AccountLimits(**fields)


def _exports(entry: Entry, notes: Notes) -> tuple[StreamExport | ServiceExport, ...]:
    return tuple(_export(value, entry, notes) for value in list_of(entry))


def _export(value: Value, entry: Entry, notes: Notes) -> StreamExport | ServiceExport:
    if not isinstance(value.value, Section):
        raise mismatch(value.place, entry.key, "a list of blocks", value)
    fields: dict[str, Any] = {}
    kinds: dict[str, str] = {}
    accounts = setter(fields, "accounts", texts_of)
    position = setter(fields, "token_position", integer_of)

    def response(inner: Entry) -> None:
        names = {"single": ResponseType.SINGLETON, "singleton": ResponseType.SINGLETON}
        names |= {"stream": ResponseType.STREAM, "chunk": ResponseType.CHUNKED}
        names |= {"chunked": ResponseType.CHUNKED}
        text = text_of(inner).lower()
        if text not in names:
            raise inner.place.error(f"Unknown response type: {text_of(inner)!r}")
        fields["response"] = names[text]

    def latency(inner: Entry) -> None:
        _check_latency(inner)
        notes.warnings.append(
            f"{inner.place.file}:{inner.place.line}: latency of services is not measured"
        )

    read_section(
        value.value,
        {
            "stream": setter(kinds, "stream", subject_of),
            "service": setter(kinds, "service", subject_of),
            "accounts": accounts,
            **dict.fromkeys(("response", "response_type"), response),
            **dict.fromkeys(
                ("threshold", "response_threshold", "response_max_time"),
                setter(fields, "threshold_s", lambda inner: duration_of(inner, notes)),
            ),
            "account_token_position": position,
            "latency": latency,
            "allow_trace": _checked_boolean,
        },
    )
    if len(kinds) != 1:
        raise value.place.error("An export is either a stream or a service")
    if "stream" in kinds:
        if "response" in fields or "threshold_s" in fields:
            raise value.place.error("Response types and thresholds are for services only")
        return StreamExport(subject=kinds["stream"], **fields)
    return ServiceExport(subject=kinds["service"], **fields)


def _check_latency(entry: Entry) -> None:
    """A subject, or a block with a subject and how many requests of a hundred are measured."""
    if not isinstance(entry.value.value, Section):
        text_of(entry)
        return
    found: dict[str, str] = {}

    def sampling(inner: Entry) -> None:
        value = inner.value.value
        if isinstance(value, str) and value.lower() == "headers":
            return
        text = value.removesuffix("%") if isinstance(value, str) else str(integer_of(inner))
        if not text.isdigit() or not 1 <= int(text) <= 100:
            raise inner.place.error("bad sampling percentage, should be 1-100")

    read_section(
        entry.value.value, {"sampling": sampling, "subject": setter(found, "subject", text_of)}
    )
    if not found:
        raise entry.place.error("Latency subject required, but missing")


def _checked_boolean(entry: Entry) -> None:
    """A switch of a feature that changes nothing here."""
    boolean_of(entry)


def _imports(entry: Entry) -> tuple[StreamImport | ServiceImport, ...]:
    return tuple(_import(value, entry) for value in list_of(entry))


def _import(value: Value, entry: Entry) -> StreamImport | ServiceImport:
    if not isinstance(value.value, Section):
        raise mismatch(value.place, entry.key, "a list of blocks", value)
    fields: dict[str, Any] = {}
    sources: dict[str, dict[str, str]] = {}

    def source(inner: Entry) -> None:
        found: dict[str, str] = {}
        read_section(
            section_of(inner),
            {
                "account": setter(found, "account", text_of),
                "subject": setter(found, "subject", subject_of),
            },
        )
        if len(found) != 2:
            raise inner.place.error(f"{inner.key} needs an account and a subject")
        sources[inner.key.lower()] = found

    read_section(
        value.value,
        {
            "stream": source,
            "service": source,
            "prefix": setter(fields, "prefix", text_of),
            "to": setter(fields, "to", text_of),
            "share": setter(fields, "share", boolean_of),
            "allow_trace": _checked_boolean,
        },
    )
    if len(sources) != 1:
        raise value.place.error("An import is either a stream or a service")
    if "stream" in sources:
        fields.pop("share", None)
        return StreamImport(**sources["stream"], **fields)
    fields.pop("prefix", None)  # means nothing to a service
    found = sources["service"]
    return ServiceImport(account=found["account"], subject=found["subject"], **fields)


# --- mappings ---------------------------------------------------------------------------------


def mappings_of(entry: Entry) -> tuple[SubjectMapping, ...]:
    """A `mappings` block: subjects and where their messages go instead."""
    mappings = []
    for item in section_of(entry):
        if item.is_variable:
            continue
        if not is_subject(item.key):
            raise item.place.error(f'Error adding mapping for "{item.key}": invalid subject')
        destinations = _destinations(item)
        for each in destinations:
            if "*" in each.subject.split("."):  # what a wildcard matched goes by its number
                raise item.place.error(
                    f'Error adding mapping for "{item.key}" to "{each.subject}": invalid subject'
                )
            try:
                Transform(item.key, each.subject, lambda below: 0)
            except ValueError as error:
                raise item.place.error(f'Error adding mapping for "{item.key}": {error}') from None
        mappings.append(SubjectMapping(item.key, destinations))
    return tuple(mappings)


def _destinations(entry: Entry) -> tuple[MappedDestination, ...]:
    value = entry.value.value
    if isinstance(value, str):
        return (MappedDestination(value),)
    if isinstance(value, Section):
        return (_destination(entry.value, entry),)
    destinations = tuple(_destination(item, entry) for item in list_of(entry))
    clusters = {each.cluster for each in destinations}
    for cluster in clusters:
        if sum(each.weight for each in destinations if each.cluster == cluster) > 100:
            raise entry.place.error(
                f'Error adding mapping for "{entry.key}": weights add up to more than 100'
            )
    return destinations


def _destination(value: Value, entry: Entry) -> MappedDestination:
    if not isinstance(value.value, Section):
        raise mismatch(value.place, entry.key, "a subject or a list of destinations", value)
    fields: dict[str, Any] = {}

    def weight(inner: Entry) -> None:
        number = inner.value.value
        if isinstance(number, str):
            number = int(number.removesuffix("%")) if number.removesuffix("%").isdigit() else -1
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= 100:
            raise inner.place.error(f'Invalid weight for "{entry.key}": use 0 to 100')
        fields["weight"] = number

    read_section(
        value.value,
        {
            **dict.fromkeys(("dest", "destination"), setter(fields, "subject", text_of)),
            "weight": weight,
            "cluster": setter(fields, "cluster", text_of),
        },
    )
    if "subject" not in fields:
        raise value.place.error(f'A destination of "{entry.key}" has no subject')
    if "weight" not in fields:
        subject = fields["subject"]
        raise value.place.error(f'Missing weight for mapping destination "{subject}"')
    return MappedDestination(**fields)
