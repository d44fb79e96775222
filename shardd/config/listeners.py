"""The blocks of what listens: TLS, WebSocket, a socket in the file system, the cluster.

A `tls` block's files are read here, once, so that all processes of a host have the same bytes.
What reads certificates is imported with the first of them: most servers start without.
"""

import re
from collections.abc import Callable
from typing import Any, Final

from shardd.config.access import permissions_of
from shardd.config.ciphers import CIPHERS, CURVES
from shardd.config.model import Cluster, Tls, UnixListener, Websocket
from shardd.config.reading import (
    Notes,
    Reader,
    boolean_of,
    duration_of,
    integer_of,
    list_of,
    listen_of,
    mismatch,
    read_section,
    seconds_of,
    section_of,
    setter,
    text_of,
    texts_of,
    write_timeout_of,
)
from shardd.config.tree import Entry, Place, Section
from shardd.values import parse_route_url

ReadBytes = Callable[[str], bytes]  # a path to the file's content; raises OSError

_HANDSHAKE_FIRST_AUTO_S: Final = 0.05  # how long a ClientHello is waited for
_VERSIONS: Final = {"1.2": "1.2", "1.3": "1.3"}
_PIN: Final = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)


# --- TLS --------------------------------------------------------------------------------------


def tls_of(entry: Entry, read: ReadBytes, notes: Notes) -> Tls:
    """A `tls` block, its files read and checked."""
    fields: dict[str, Any] = {}
    files: dict[str, str] = {}
    pairs: list[tuple[str, str, Place]] = []
    verify = setter(fields, "verify", boolean_of)

    def handshake_first(inner: Entry) -> None:
        fields["handshake_first_s"] = _handshake_first(inner, notes)

    def version(inner: Entry) -> None:
        text = text_of(inner)
        if text not in _VERSIONS:
            raise inner.place.error(f'unsupported TLS version "{text}": use 1.2 or 1.3')
        fields["minimum_version"] = text

    def certificates(inner: Entry) -> None:
        for value in list_of(inner):
            if not isinstance(value.value, Section):
                raise mismatch(value.place, inner.key, "a list of blocks", value)
            pair: dict[str, str] = {}
            read_section(
                value.value,
                {
                    "cert_file": setter(pair, "cert_file", text_of),
                    "key_file": setter(pair, "key_file", text_of),
                },
            )
            pairs.append((pair.get("cert_file", ""), pair.get("key_file", ""), value.place))

    readers: dict[str, Reader] = {
        "cert_file": setter(files, "cert_file", text_of),
        "key_file": setter(files, "key_file", text_of),
        "ca_file": setter(files, "ca_file", text_of),
        "certs": certificates,
        "verify": verify,
        "verify_and_map": setter(fields, "verify_and_map", boolean_of),
        "insecure": setter(fields, "insecure", boolean_of),
        "timeout": setter(fields, "timeout_s", seconds_of),
        "cipher_suites": setter(
            fields, "cipher_suites", _names(frozenset(CIPHERS), "cipher suite")
        ),
        "curve_preferences": setter(
            fields, "curves", _names(frozenset(CURVES), "curve preference")
        ),
        "min_version": version,
        "connection_rate_limit": setter(fields, "rate_limit", integer_of),
        "pinned_certs": setter(fields, "pinned", _pins),
        **dict.fromkeys(("handshake_first", "first", "immediate"), handshake_first),
        "ocsp_peer": _refused_ocsp,
        # Of no effect here: what Go would hold back, OpenSSL's own policy decides.
        "allow_insecure_cipher_suites": _checked_boolean,
        **dict.fromkeys(("cert_match_by", "cert_match"), _checked_text),  # of Windows' store
    }
    read_section(section_of(entry), readers)
    if files and pairs:
        raise entry.place.error("cannot combine 'cert_file' option with 'certs' option")
    if files.get("cert_file") and not files.get("key_file"):
        raise entry.place.error("missing 'key_file' in TLS configuration")
    if files.get("key_file") and not files.get("cert_file"):
        raise entry.place.error("missing 'cert_file' in TLS configuration")
    if files.get("cert_file"):
        pairs.insert(0, (files["cert_file"], files["key_file"], entry.place))
    fields["certificates"] = tuple(_pair(*pair, read) for pair in pairs)
    if files.get("ca_file"):
        fields["authorities"] = _authorities(files["ca_file"], entry.place, read)
    fields["files"] = tuple(name for pair in pairs for name in pair[:2])
    if fields.get("timeout_s") == 0:
        fields.pop("timeout_s")
    return Tls(**fields)


def tls_from_files(
    certificate: str, key: str, authority: str, verify: bool, read: ReadBytes, place: Place
) -> Tls:
    """The same from flags."""
    if not certificate or not key:
        missing = "key_file" if certificate else "cert_file"
        raise place.error(f"missing '{missing}' in TLS configuration")
    return Tls(
        certificates=(_pair(certificate, key, place, read),),
        authorities=_authorities(authority, place, read) if authority else b"",
        verify=verify,
        files=(certificate, key),
    )


def _refused_ocsp(entry: Entry) -> None:
    """Ignored, it would let in peers whose certificates have been revoked."""
    if entry.value.value is not False:
        raise entry.place.error("ocsp_peer is not served by this version of shardd")


def _checked_boolean(entry: Entry) -> None:
    boolean_of(entry)


def _checked_text(entry: Entry) -> None:
    text_of(entry)


def _handshake_first(entry: Entry, notes: Notes) -> float | None:
    value = entry.value.value
    if isinstance(value, bool):
        return 0.0 if value else None
    text = text_of(entry)
    if text.lower() in ("true", "on"):
        return 0.0
    if text.lower() in ("false", "off"):
        return None
    if text.lower() in ("auto", "auto_fallback"):
        return _HANDSHAKE_FIRST_AUTO_S
    return duration_of(entry, notes)


def _names(known: frozenset[str], what: str) -> Callable[[Entry], tuple[str, ...]]:
    def read(entry: Entry) -> tuple[str, ...]:
        names = texts_of(entry)
        for name in names:
            if name not in known:
                raise entry.place.error(f"unrecognized {what} {name}")
        if not names:
            raise entry.place.error(f"{entry.key} cannot be empty")
        return names

    return read


def _pins(entry: Entry) -> frozenset[str]:
    pins = texts_of(entry)
    for pin in pins:
        if not _PIN.fullmatch(pin):
            raise entry.place.error(
                "'pinned_certs' takes hexadecimal SHA-256 of public keys, 64 digits each"
            )
    return frozenset(pin.lower() for pin in pins)


def _content(path: str, place: Place, what: str, read: ReadBytes) -> bytes:
    try:
        return read(path)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise place.error(f"error parsing {what}: open {path}: {reason}") from None


def _pair(certificate: str, key: str, place: Place, read: ReadBytes) -> tuple[bytes, bytes]:
    """A certificate chain and its key, which have to belong together."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization

    what = "X509 certificate/key pair"
    chain, secret = (_content(path, place, what, read) for path in (certificate, key))
    try:
        public = x509.load_pem_x509_certificates(chain)[0].public_key()
    except ValueError:
        raise place.error(f"error parsing {what}: {certificate} holds no certificate") from None
    try:
        private = serialization.load_pem_private_key(secret, None)
    except TypeError:
        raise place.error(f"error parsing {what}: {key} is encrypted") from None
    except ValueError:
        raise place.error(f"error parsing {what}: {key} holds no private key") from None
    form = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if private.public_key().public_bytes(*form) != public.public_bytes(*form):
        raise place.error(f"error parsing {what}: {key} is not the key of {certificate}")
    return chain, secret


def _authorities(path: str, place: Place, read: ReadBytes) -> bytes:
    from cryptography import x509

    content = _content(path, place, "root certificates", read)
    try:
        x509.load_pem_x509_certificates(content)
    except ValueError:
        raise place.error(f"failed to parse root certificate from {path}") from None
    return content


# --- WebSocket --------------------------------------------------------------------------------


def websocket_of(entry: Entry, read: ReadBytes, notes: Notes) -> Websocket:
    """A `websocket` block."""
    fields: dict[str, Any] = {}
    switches: dict[str, bool] = {}

    def listen(inner: Entry) -> None:
        fields.update(listen_of(inner))

    def authorization(inner: Entry) -> None:
        read_section(
            section_of(inner),
            {
                **dict.fromkeys(("user", "username"), setter(fields, "user", text_of)),
                **dict.fromkeys(("pass", "password"), setter(fields, "password", text_of)),
                "token": setter(fields, "token", text_of),
                "timeout": setter(fields, "auth_timeout_s", seconds_of),
            },
        )

    def headers(inner: Entry) -> None:
        fields["headers"] = tuple(
            (each.key, text_of(each)) for each in section_of(inner) if not each.is_variable
        )

    read_section(
        section_of(entry),
        {
            "listen": listen,
            "port": setter(fields, "port", integer_of),
            **dict.fromkeys(("host", "net"), setter(fields, "host", text_of)),
            "advertise": setter(fields, "advertise", text_of),
            "no_tls": setter(switches, "no_tls", boolean_of),
            "tls": setter(fields, "tls", lambda inner: tls_of(inner, read, notes)),
            "same_origin": setter(fields, "same_origin", boolean_of),
            **dict.fromkeys(
                (
                    "allowed_origins",
                    "allowed_origin",
                    "allow_origins",
                    "allow_origin",
                    "origins",
                    "origin",
                ),
                setter(fields, "allowed_origins", texts_of),
            ),
            "handshake_timeout": setter(fields, "handshake_timeout_s", seconds_of),
            **dict.fromkeys(("compress", "compression"), setter(fields, "compression", boolean_of)),
            **dict.fromkeys(("authorization", "authentication"), authorization),
            "jwt_cookie": setter(fields, "jwt_cookie", text_of),
            "user_cookie": setter(fields, "username_cookie", text_of),
            "pass_cookie": setter(fields, "password_cookie", text_of),
            "token_cookie": setter(fields, "token_cookie", text_of),
            "no_auth_user": setter(fields, "no_auth_user", text_of),
            "headers": headers,
            "ping_interval": lambda inner: _checked_duration(inner, notes),
        },
    )
    if switches.get("no_tls"):
        fields.pop("tls", None)
        fields["is_plain"] = True
    return Websocket(**fields)


def _checked_duration(entry: Entry, notes: Notes) -> None:
    """A setting of a feature that needs none of its own here."""
    duration_of(entry, notes)


# --- a socket in the file system --------------------------------------------------------------


def unix_of(entry: Entry) -> UnixListener:
    """`listen_unix`: a path, or a block with path, mode and users."""
    if isinstance(entry.value.value, str):
        return UnixListener(path=entry.value.value)
    fields: dict[str, Any] = {}

    def mode(inner: Entry) -> None:
        value = inner.value.value
        text = value if isinstance(value, str) else str(integer_of(inner))
        if not re.fullmatch(r"0?[0-7]{3}", text):
            raise inner.place.error("mode has to be three octal digits, as 0660")
        fields["mode"] = int(text, 8)

    def users(inner: Entry) -> None:
        found: dict[int, str] = {}
        for each in section_of(inner):
            if each.is_variable:
                continue
            if each.key != "*" and not each.key.isdigit():
                raise each.place.error("users of a socket are numbered: a uid, or * for all others")
            found[-1 if each.key == "*" else int(each.key)] = text_of(each)
        fields["users"] = found

    read_section(
        section_of(entry), {"path": setter(fields, "path", text_of), "mode": mode, "users": users}
    )
    if not fields.get("path"):
        raise entry.place.error("listen_unix needs a path")
    return UnixListener(**fields)


def _route_urls(entry: Entry) -> tuple[str, ...]:
    """URLs of other servers. They may hold a password: the message does not repeat them."""
    urls = tuple(texts_of(entry))
    for url in urls:
        try:
            parse_route_url(url)
        except ValueError:
            raise entry.place.error("error parsing route url: expected nats://host:port") from None
    return urls


# --- the cluster ------------------------------------------------------------------------------


def cluster_of(entry: Entry, read: ReadBytes, notes: Notes) -> Cluster:
    """A `cluster` block."""
    fields: dict[str, Any] = {}

    def listen(inner: Entry) -> None:
        fields.update(listen_of(inner))

    def authorization(inner: Entry) -> None:
        read_section(
            section_of(inner),
            {
                **dict.fromkeys(("user", "username"), setter(fields, "user", text_of)),
                **dict.fromkeys(("pass", "password"), setter(fields, "password", text_of)),
                "timeout": setter(fields, "auth_timeout_s", seconds_of),
                **dict.fromkeys(("permissions", "default_permissions"), permissions),
            },
        )

    permissions = setter(fields, "permissions", lambda inner: permissions_of(inner, notes))
    compression = setter(fields, "compression", _compression)
    read_section(
        section_of(entry),
        {
            "name": setter(fields, "name", text_of),
            "listen": listen,
            "port": setter(fields, "port", integer_of),
            **dict.fromkeys(("host", "net"), setter(fields, "host", text_of)),
            "authorization": authorization,
            "routes": setter(fields, "routes", _route_urls),
            "tls": setter(fields, "tls", lambda inner: tls_of(inner, read, notes)),
            **dict.fromkeys(
                ("cluster_advertise", "advertise"), setter(fields, "advertise", text_of)
            ),
            "no_advertise": setter(fields, "no_advertise", boolean_of),
            "connect_retries": setter(fields, "connect_retries", integer_of),
            "connect_backoff": setter(fields, "connect_backoff", boolean_of),
            "permissions": permissions,
            "pool_size": setter(fields, "pool_size", integer_of),
            "accounts": setter(fields, "accounts", texts_of),
            "compression": compression,
            "ping_interval": setter(
                fields, "ping_interval_s", lambda inner: duration_of(inner, notes)
            ),
            "ping_max": setter(fields, "ping_max", integer_of),
            "write_deadline": setter(
                fields, "write_deadline_s", lambda inner: duration_of(inner, notes)
            ),
            "write_timeout": setter(fields, "write_timeout", write_timeout_of),
        },
    )
    if fields.get("compression", "accept") not in ("accept", "off"):
        notes.warnings.append(
            "cluster: routes are not compressed by this version of shardd: compression is ignored"
        )
    if fields.get("pool_size") == 0:
        fields.pop("pool_size")  # the default, as for nats-server
    if " " in fields.get("name", ""):
        raise entry.place.error("cluster name cannot contain spaces")
    if fields.get("tls") is not None:
        # The handshake is part of it.
        fields.setdefault("auth_timeout_s", fields["tls"].timeout_s + 1.0)
    return Cluster(**fields)


def _compression(entry: Entry) -> str:
    """A mode's name, a boolean, or a block with a mode and thresholds."""
    value = entry.value.value
    if isinstance(value, bool):
        return "s2_auto" if value else "off"
    if isinstance(value, Section):
        fields: dict[str, Any] = {}
        read_section(
            value,
            {
                "mode": setter(fields, "mode", text_of),
                "rtt_thresholds": setter(fields, "thresholds", list_of),
                "thresholds": setter(fields, "thresholds", list_of),
            },
        )
        return str(fields.get("mode", "accept"))
    return text_of(entry)
