"""A configuration file to a `Config`: the keys of the top level, and what has to hold between them.

`load_file` reads the file, its includes and the files that it names; everything beneath works on
text and bytes that are handed in. `Loaded.conversions` are what a check of the file (`-t`) calls an
error and a start only a warning.
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from shardd.config.access import Access, mappings_of, read_accounts, read_authorization
from shardd.config.core import Config
from shardd.config.listeners import ReadBytes, cluster_of, tls_of, unix_of, websocket_of
from shardd.config.model import Account, Authorization, OperatorMode, UseLimits
from shardd.config.queue_policies import queue_policies_of
from shardd.config.reading import (
    Notes,
    Reader,
    boolean_of,
    duration_of,
    integer_below,
    integer_of,
    listen_of,
    read_section,
    section_of,
    setter,
    text_of,
    texts_of,
)
from shardd.config.streaming import StreamingOptions
from shardd.config.streaming_block import options_of, refuse_misplaced, streaming_of
from shardd.config.syntax import parse
from shardd.config.tree import Entry, Section
from shardd.config.unserved import BLOCKS, SETTINGS, read_unserved
from shardd.errors import ConfigError
from shardd.values import is_public_nkey

_FILE_BYTES_MAX: Final = 64 * 1_048_576  # a preload of many accounts is large, a mistake is larger
_NAME: Final = re.compile(r"[A-Za-z0-9_]+")
_PORT: Final = re.compile(r"-?[0-9]+", re.ASCII)
_JWT: Final = re.compile(r"eyJ[\w-]*\.[\w-]+\.[\w-]+", re.ASCII)
_ADDRESSES: Final = ("listen", "host", "net")
_SHARDD_KEYS: Final = (
    "workers",
    "pin",
    "balance",
    "ring_size",
    "heartbeat_silence",
    "log_format",
    "queue_policies",
)
_LAME_DUCK_S_MIN: Final = 30.0
_PLAINTEXT: Final = "Plaintext passwords detected, use nkeys or bcrypt"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A file as it was read."""

    is_empty: bool  # for `-t`: nothing is set
    config: Config  # not validated: flags may still go over it
    conversions: tuple[str, ...]  # errors for `-t`
    fields: Mapping[str, Any]  # what the file itself sets, by field of `Config`


def load_file(path: str, environment: Mapping[str, str] | None = None) -> Loaded:
    """Reads a configuration file.

    Raises:
        ConfigError: it cannot be read or is not valid; the message names file, line and key.
    """
    try:
        content = _read_bytes(path)
        text = content.decode("utf-8")
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"error opening config file: open {path}: {reason}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text in UTF-8") from None
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    loaded = load_text(text, path, os.environ if environment is None else environment)
    fields = {**loaded.fields, "config_file": path, "config_digest": digest}
    config = dataclasses.replace(loaded.config, config_file=path, config_digest=digest)
    return Loaded(loaded.is_empty, config, loaded.conversions, fields)


def load_streaming_file(path: str) -> tuple[StreamingOptions, tuple[str, ...]]:
    """The options of a file that is for streaming: those of its `streaming` block if it has one,
    else those at its top; and what the operator should know. Raises ConfigError."""
    section = _parse_file(path)
    notes = Notes()
    block = section.entries.get("streaming")
    options = options_of(section, notes) if block is None else streaming_of(block, notes)
    return options, (*notes.warnings, *notes.conversions)


def has_streaming_block(path: str) -> bool:
    """Whether a file has a `streaming` block, and so may be a server's as well. Raises
    ConfigError."""
    return "streaming" in _parse_file(path).entries


def _parse_file(path: str) -> Section:
    try:
        text = _read_text(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ConfigError(f"error opening config file: open {path}: {reason}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a text in UTF-8") from None
    return parse(text, path, environment=os.environ, read=_read_text)


def load_text(text: str, file: str, environment: Mapping[str, str]) -> Loaded:
    """The same from a text. Files that it names are read all the same."""
    section = parse(text, file, environment=environment, read=_read_text)
    return load_tree(section)


def load_setting(key: str, value: str) -> Mapping[str, Any]:
    """The fields of `Config` that one setting makes, read as in a file. A dotted key stands for
    blocks. Raises ConfigError."""
    names = key.split(".")
    if names[0].lower() in _SHARDD_KEYS:
        names.insert(0, "shardd")
    if not all(_NAME.fullmatch(name) for name in names):
        raise ConfigError(f'unknown setting "{key}"')
    # An address may begin with a bracket, which would begin a list.
    is_address = names[-1].lower() in _ADDRESSES and not _PORT.fullmatch(value)
    text = f"'{value}'" if is_address and "'" not in value else value
    inner = f"{names[-1]}: {text}"
    for name in reversed(names[:-1]):
        inner = f"{name} {{ {inner} }}"
    section = parse(inner, "--set", environment={}, read=_read_text)
    return load_tree(section).fields


def _read_bytes(path: str) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(_FILE_BYTES_MAX)


def _read_text(path: str) -> str:
    return _read_bytes(path).decode("utf-8")


# --- the top level ----------------------------------------------------------------------------


def load_tree(section: Section) -> Loaded:
    """The same from a text that has been parsed. Raises ConfigError."""
    notes = Notes()
    access = Access()
    fields: dict[str, Any] = {}
    operator: dict[str, Any] = {}
    readers: dict[str, Reader] = {
        **_simple_readers(fields, notes),
        **_block_readers(fields, access, notes, _read_bytes),
        **_operator_readers(operator, fields),
        **dict.fromkeys((*BLOCKS, *SETTINGS), lambda entry: read_unserved(entry, notes)),
    }
    refuse_misplaced(section, readers)
    read_section(section, readers)
    _finish(fields, access, operator, notes)
    if notes.warnings or notes.conversions:
        fields["warnings"] = (*notes.warnings, *notes.conversions)
    return Loaded(not section.entries, Config(**fields), tuple(notes.conversions), fields)


def _simple_readers(fields: dict[str, Any], notes: Notes) -> dict[str, Reader]:
    """Keys with one value, under all their names."""
    readers: dict[str, Reader] = {}

    def add(names: str, field: str, read: Any) -> None:
        readers.update(dict.fromkeys(names.split(), setter(fields, field, read)))

    def duration(entry: Entry) -> float:
        return duration_of(entry, notes)

    def lame_duck(entry: Entry) -> float:
        text = text_of(entry)
        seconds = duration_of(entry, notes)
        if seconds < _LAME_DUCK_S_MIN:
            raise entry.place.error(
                f"invalid lame_duck_duration of {text}, minimum is {_LAME_DUCK_S_MIN:g} seconds"
            )
        return seconds

    def grace(entry: Entry) -> float:
        text = text_of(entry)
        seconds = duration_of(entry, notes)
        if seconds < 0:
            raise entry.place.error(
                f"invalid lame_duck_grace_period of {text}, needs to be positive"
            )
        return seconds

    add("host net", "host", text_of)
    add("port", "port", integer_of)
    add("server_name", "server_name", _server_name)
    add("client_advertise", "client_advertise", text_of)
    for name in ("debug", "trace", "logtime", "logtime_utc", "no_header_support"):
        add(name, name, boolean_of)
    add("log_file logfile", "log_file", text_of)
    add("log_size_limit logfile_size_limit", "log_size_limit", integer_of)
    add("syslog", "syslog", boolean_of)
    add("remote_syslog", "remote_syslog", text_of)
    add("log_max_num logfile_max_num", "log_max_num", integer_of)
    add("pid_file pidfile", "pid_file", text_of)
    add("ports_file_dir", "ports_file_dir", text_of)
    add("max_connections max_conn", "max_connections", integer_of)
    add("max_payload", "max_payload", integer_below(1 << 31))
    add("max_pending", "max_pending", integer_of)
    add("max_control_line", "max_control_line", integer_below(1 << 31))
    add("max_subscriptions max_subs", "max_subscriptions", integer_of)
    add("max_subscription_tokens max_sub_tokens", "max_subscription_tokens", integer_below(256, 0))
    add("ping_interval", "ping_interval_s", duration)
    add("ping_max", "ping_max", integer_of)
    add("write_deadline", "write_deadline_s", duration)
    add("no_fast_producer_stall", "no_fast_producer_stall", boolean_of)
    add("always_enable_nonce", "always_enable_nonce", boolean_of)
    add("no_auth_user", "no_auth_user", text_of)
    add("allow_non_tls", "allow_non_tls", boolean_of)
    add("lame_duck_duration", "lame_duck_duration_s", lame_duck)
    add("lame_duck_grace_period", "lame_duck_grace_s", grace)
    add("system_account system", "system_account", text_of)

    return {**readers, **_address_readers(fields)}


def _address_readers(fields: dict[str, Any]) -> dict[str, Reader]:
    """Keys whose value sets more than one field, or another one than they say."""

    def listen(entry: Entry) -> None:
        fields.update(listen_of(entry))

    def no_system_account(entry: Entry) -> None:
        if boolean_of(entry):
            fields["system_account"] = ""

    def trace_verbose(entry: Entry) -> None:
        if boolean_of(entry):
            fields["trace"] = True

    def monitor(name: str) -> Reader:
        def read(entry: Entry) -> None:
            found = listen_of(entry)
            fields[name] = found["port"]
            if "host" in found:
                fields["http_host"] = found["host"]

        return read

    readers: dict[str, Reader] = {"listen": listen}
    readers["http"] = monitor("http_port")
    readers["https"] = monitor("https_port")
    for name in ("no_system_account", "no_system", "no_sys_acc"):
        readers[name] = no_system_account
    readers["trace_verbose"] = trace_verbose
    for names, field, read in (
        ("http_port monitor_port", "http_port", integer_of),
        ("https_port", "https_port", integer_of),
        ("http_base_path", "http_base_path", text_of),
        ("max_closed_clients", "max_closed_clients", integer_of),
    ):
        readers.update(dict.fromkeys(names.split(), setter(fields, field, read)))
    return readers


def _block_readers(
    fields: dict[str, Any], access: Access, notes: Notes, read: ReadBytes
) -> dict[str, Reader]:
    """Keys with a block."""
    mappings = setter(fields, "mappings", mappings_of)
    return {
        **dict.fromkeys(("authorization",), lambda entry: read_authorization(entry, access, notes)),
        "accounts": lambda entry: read_accounts(entry, access, notes),
        "mappings": mappings,
        "maps": mappings,
        "tls": setter(fields, "tls", lambda entry: tls_of(entry, read, notes)),
        **dict.fromkeys(
            ("websocket", "ws"),
            setter(fields, "websocket", lambda entry: websocket_of(entry, read, notes)),
        ),
        "listen_unix": setter(fields, "unix", unix_of),
        "cluster": setter(fields, "cluster", lambda entry: cluster_of(entry, read, notes)),
        "streaming": setter(fields, "streaming", lambda entry: streaming_of(entry, notes)),
        "shardd": lambda entry: _read_shardd(entry, fields, notes),
    }


def _server_name(entry: Entry) -> str:
    text = text_of(entry)
    if " " in text:
        raise entry.place.error("server name cannot contain spaces")
    return text


# --- shardd's own -----------------------------------------------------------------------------


def _read_shardd(entry: Entry, fields: dict[str, Any], notes: Notes) -> None:
    """The `shardd` block: what nats-server has no word for."""

    def workers(inner: Entry) -> int | None:
        return None if inner.value.value == "auto" else integer_of(inner)

    def limits(inner: Entry) -> None:
        read_section(
            section_of(inner),
            {
                "users": setter(fields, "user_limits", _use_limits),
                "accounts": setter(fields, "account_limits", _use_limits),
            },
        )

    read_section(
        section_of(entry),
        {
            "workers": setter(fields, "workers", workers),
            "pin": setter(fields, "pin", boolean_of),
            "balance": setter(fields, "balance", boolean_of),
            "log_format": setter(fields, "log_format", _log_format),
            "ring_size": setter(fields, "ring_bytes", integer_of),
            "heartbeat_silence": setter(
                fields, "heartbeat_silence_s", lambda inner: duration_of(inner, notes)
            ),
            "limits": limits,
            "queue_policies": setter(fields, "queue_policies", queue_policies_of),
        },
    )


def _log_format(entry: Entry) -> str:
    text = text_of(entry).lower()
    if text not in ("text", "json"):
        raise entry.place.error("log_format must be 'text' or 'json'")
    return text


def _use_limits(entry: Entry) -> dict[str, UseLimits]:
    """Limits by name; "*" stands for everybody who is not named."""
    limits: dict[str, UseLimits] = {}
    for each in section_of(entry):
        if each.is_variable:
            continue
        found: dict[str, int] = {}
        read_section(
            section_of(each),
            {
                "max_connections": setter(found, "max_connections", _count),
                "publish_messages_per_second": setter(found, "publish_messages_per_s", _count),
                "publish_bytes_per_second": setter(found, "publish_bytes_per_s", _count),
            },
        )
        limits[each.key] = UseLimits(**found)
    return limits


def _count(entry: Entry) -> int:
    number = integer_of(entry)
    if number < 0:
        raise entry.place.error(f"{entry.key} cannot be negative")
    return number


# --- operator mode ----------------------------------------------------------------------------


def _operator_readers(operator: dict[str, Any], fields: dict[str, Any]) -> dict[str, Reader]:
    """Keys of operator mode: who is trusted, and the claims of the accounts."""

    def operators(entry: Entry) -> None:
        operator["place"] = entry.place
        operator["operators"] = tuple(_operator_text(text, entry) for text in texts_of(entry))

    def resolver(entry: Entry) -> None:
        value = entry.value.value
        if not isinstance(value, str) or value.upper() not in ("MEMORY", "MEM"):
            raise entry.place.error("only 'resolver: MEMORY' is served by this version of shardd")
        operator["resolver"] = True

    def preload(entry: Entry) -> None:
        claims: dict[str, str] = {}
        for each in section_of(entry):
            if not each.is_variable:
                claims[each.key] = text_of(each).strip()
                if not _JWT.fullmatch(claims[each.key]):
                    raise each.place.error("invalid account JWT")
        operator["preload"] = claims

    return {
        **dict.fromkeys(
            ("operator", "operators", "roots", "root", "root_operators", "root_operator"), operators
        ),
        **dict.fromkeys(("resolver", "account_resolver", "accounts_resolver"), resolver),
        "resolver_preload": preload,
        **dict.fromkeys(
            ("trusted", "trusted_keys"), setter(operator, "trusted_keys", _operator_keys)
        ),
        "resolver_pinned_accounts": _checked_texts,
    }


def _operator_keys(entry: Entry) -> tuple[str, ...]:
    keys = texts_of(entry)
    for key in keys:
        if not is_public_nkey(key, "O"):
            raise entry.place.error(
                f'trust key "{key}" required to be a valid public operator nkey'
            )
    return keys


def _checked_texts(entry: Entry) -> None:
    """A setting of resolvers that are not served."""
    texts_of(entry)


def _operator_text(text: str, entry: Entry) -> str:
    """An operator's JWT, which stands here or in a file."""
    if text.startswith("eyJ"):
        return text
    try:
        return _read_text(text)
    except (OSError, UnicodeDecodeError):
        raise entry.place.error(f"expected a valid operator JWT or file, got {text!r}") from None


# --- what has to hold between keys ------------------------------------------------------------


def _finish(fields: dict[str, Any], access: Access, operator: dict[str, Any], notes: Notes) -> None:
    """Puts the parts together. What is not set is left out, so that it overrides nothing."""
    tls = fields.get("tls")
    if access.auth_timeout_s is not None:
        fields["auth_timeout_s"] = access.auth_timeout_s
    elif tls is not None:
        fields["auth_timeout_s"] = tls.timeout_s + 1.0  # the handshake is part of it
    if operator.get("operators") or operator.get("trusted_keys"):
        fields["operator"] = _operator_mode(operator, fields)
        if access.users or access.authorization.user or access.authorization.token:
            raise ConfigError("operator mode takes no users, no user and no token")
    system = fields.get("system_account", "")
    if system and not operator and system != "$SYS":
        _find_account(access.accounts, system)
    if access.authorization != Authorization():
        fields["authorization"] = access.authorization
    if access.users:
        fields["users"] = tuple(access.users)
    if access.accounts:
        fields["accounts"] = tuple(access.accounts)
    if _has_plaintext(access):
        notes.warnings.insert(0, _PLAINTEXT)


def _find_account(accounts: list[Account], name: str) -> None:
    if all(account.name != name for account in accounts):
        accounts.append(Account(name=name))


def _operator_mode(operator: dict[str, Any], fields: dict[str, Any]) -> OperatorMode:
    place = operator.get("place")
    if not operator.get("resolver") and place is not None:
        raise place.error("operators require an account resolver to be configured")
    return OperatorMode(
        trusted_keys=operator.get("trusted_keys", ()),
        operators=operator.get("operators", ()),
        system_account=fields.get("system_account", ""),
        preload=operator.get("preload", {}),
    )


def _has_plaintext(access: Access) -> bool:
    """Whether some password or token stands in the file as it is."""
    secrets = [access.authorization.password, access.authorization.token]
    secrets += [user.password for user in access.users]
    return any(secret and not secret.startswith("$2") for secret in secrets)
