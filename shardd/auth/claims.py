"""NATS JWTs: claims that are signed by nkeys, of operators, accounts and users.

A token is three parts of base64url: a header that names the algorithm, the claims, and the
Ed25519 signature of both by the claims' issuer (of version 1, of the claims alone). No IO; the time
is handed in. A message about a token never holds any of it but public keys.
"""

import base64
import binascii
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, time, tzinfo
from typing import Any, Final
from zoneinfo import ZoneInfo

from shardd.auth import nkeys
from shardd.auth.nkeys import KeyRole
from shardd.config.model import ConnectionType, Permissions, ResponseRules, SubjectRules

_TOKEN_CHARACTERS_MAX: Final = 1_048_576
_ISSUERS: Final = {
    "operator": (KeyRole.OPERATOR,),
    "account": (KeyRole.OPERATOR,),
    "user": (KeyRole.ACCOUNT,),
    "activation": (KeyRole.ACCOUNT,),
}
_NS: Final = 1_000_000_000

_NUMBER_MAX: Final = 2.0**53  # exact in JSON, and far beyond any time
_LIMIT_MAX: Final = 2**62  # what the hot path counts in


class ClaimsError(ValueError):
    """A token that is not valid; the text says why and holds no secret."""


@dataclass(frozen=True, slots=True)
class Claims:
    """One token whose signature is good. What it says is for others to judge."""

    kind: str  # operator, account, user, activation
    subject: str  # a public key: whom it is about
    issuer: str  # a public key: who signed it
    issued_at: float
    expires_at: float | None  # unix seconds
    not_before: float
    name: str
    nats: Mapping[str, Any]  # the part that is NATS's own

    def check_time(self, now: float) -> None:
        """Raises ClaimsError when the token is not valid at this time."""
        if self.expires_at is not None and self.expires_at <= now:
            raise ClaimsError("claim is expired")
        if self.not_before > now:
            raise ClaimsError("claim is not yet valid")


def decode(token: str) -> Claims:
    """Reads a token and checks its signature. Raises ClaimsError."""
    if len(token) > _TOKEN_CHARACTERS_MAX:
        raise ClaimsError("the token is too long")
    parts = token.strip().split(".")
    if len(parts) != 3:
        raise ClaimsError("a token has three parts")
    header, body = (_json(part) for part in parts[:2])
    if str(header.get("typ", "")).upper() != "JWT":
        raise ClaimsError("the token is no JWT")
    algorithm = header.get("alg")
    if algorithm == "ed25519-nkey":
        signed = f"{parts[0]}.{parts[1]}"
    elif algorithm == "ed25519":
        signed = parts[1]
    else:
        raise ClaimsError("the token is signed by an unknown algorithm")
    nats = body.get("nats")
    if not isinstance(nats, dict):
        raise ClaimsError("the token has no claims of NATS")
    kind = nats.get("type") or body.get("type")
    if not isinstance(kind, str) or kind not in _ISSUERS:
        raise ClaimsError("the token is of an unknown type")
    issuer = _text(body, "iss")
    key = _issuer_key(issuer, kind)
    if not nkeys.is_signed(signed.encode(), nkeys.decode_signature(parts[2]), key):
        raise ClaimsError("the token's signature is not its issuer's")
    return Claims(
        kind=kind,
        subject=_text(body, "sub"),
        issuer=issuer,
        issued_at=_number(body, "iat"),
        expires_at=_number(body, "exp") or None,
        not_before=_number(body, "nbf"),
        name=_text(body, "name"),
        nats=nats,
    )


def _issuer_key(issuer: str, kind: str) -> bytes:
    for role in _ISSUERS[kind]:
        try:
            return nkeys.decode_public_key(issuer, role)
        except ValueError:
            continue
    raise ClaimsError(f"{kind} claims cannot be issued by {issuer[:1]}... keys")


def _json(part: str) -> dict[str, Any]:
    try:
        raw = base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
        value = json.loads(raw)
    except (binascii.Error, ValueError, RecursionError):
        raise ClaimsError("a part of the token cannot be read") from None
    if not isinstance(value, dict):
        raise ClaimsError("a part of the token is no object")
    return value


def _text(body: Mapping[str, Any], name: str) -> str:
    value = body.get(name, "")
    if not isinstance(value, str):
        raise ClaimsError(f"{name} of the token is no text")
    return value


def _number(body: Mapping[str, Any], name: str) -> float:
    value = body.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ClaimsError(f"{name} of the token is no number")
    if not abs(value) < _NUMBER_MAX:  # also what is not a number at all
        raise ClaimsError(f"{name} of the token is out of range")
    return float(value)


# --- what claims grant ------------------------------------------------------------------------


def permissions_of(nats: Mapping[str, Any]) -> Permissions | None:
    """The permissions that user claims, or a template, hold; None: nothing is restricted."""
    publish, subscribe = _rules(nats.get("pub"), 1), _rules(nats.get("sub"), 2)
    responses = nats.get("resp")
    rules = None
    if isinstance(responses, dict):
        count = responses.get("max", 0)
        expires_ns = responses.get("ttl", 0)
        default = ResponseRules()
        rules = ResponseRules(
            max_messages=int(count) or default.max_messages,
            expires_s=expires_ns / _NS or default.expires_s,
        )
    if not publish and not subscribe and rules is None:
        return None
    return Permissions(publish=publish, subscribe=subscribe, responses=rules)


def _rules(value: Any, words_max: int) -> SubjectRules:
    if not isinstance(value, dict):
        return SubjectRules()
    allow, deny = (_patterns(value.get(name), words_max) for name in ("allow", "deny"))
    return SubjectRules(allow=allow, deny=deny)


def _patterns(value: Any, words_max: int) -> tuple[str, ...]:
    """Subjects, with queues where there may be two words. Raises ClaimsError for one that cannot
    be read: a denied one must not pass for nothing."""
    texts = _texts(value)
    for text in texts:
        words = text.split()
        tokens = ".".join(words).split(".")
        if words != text.split(" ") or len(words) > words_max or not all(tokens):
            raise ClaimsError("a subject of the token's permissions cannot be read")
    return texts


def _texts(value: Any) -> tuple[str, ...]:
    """A list of texts. Raises ClaimsError for any other: a list that cannot be read must not pass
    for an empty one, which restricts nothing."""
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(each, str) and each for each in value):
        raise ClaimsError("a list of the token cannot be read")
    return tuple(value)


def limit_of(nats: Mapping[str, Any], name: str) -> int:
    """A limit of the claims; negative: none."""
    value = nats.get(name, -1)
    if not isinstance(value, int) or isinstance(value, bool):
        return -1
    return max(-1, min(value, _LIMIT_MAX))


def connection_types_of(nats: Mapping[str, Any]) -> frozenset[str]:
    """The kinds of connections that are allowed; empty: all."""
    return frozenset(each.upper() for each in _texts(nats.get("allowed_connection_types")))


def allows_address(nats: Mapping[str, Any], ip: str) -> bool:
    """Whether a client may come from there (`src`, networks in CIDR notation)."""
    networks = nats.get("src")
    if isinstance(networks, str):
        networks = [each.strip() for each in networks.split(",") if each.strip()]
    if not networks:
        return True
    try:
        address = ipaddress.ip_address(ip)
        return any(address in ipaddress.ip_network(each, strict=False) for each in networks)
    except (ValueError, TypeError):
        return False


def allowed_until(nats: Mapping[str, Any], now: float) -> float | None:
    """When the range of the day ends in which the user may be here; None: whenever.

    Raises ClaimsError when it may not be here now.
    """
    ranges = nats.get("times")
    if not ranges:
        return None
    zone: tzinfo | None = None
    name = nats.get("times_location") or nats.get("location")
    if isinstance(name, str) and name:
        try:
            zone = ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ClaimsError("the token names an unknown time zone") from None
    here = datetime.fromtimestamp(now, zone)
    for each in ranges:
        try:
            start, end = (time.fromisoformat(each[key]) for key in ("start", "end"))
        except (KeyError, TypeError, ValueError):
            raise ClaimsError("the token's times cannot be read") from None
        if start <= here.time() < end:
            ending = here.replace(
                hour=end.hour, minute=end.minute, second=end.second, microsecond=0
            )
            return ending.timestamp()
    raise ClaimsError("the token does not allow this time of day")


def is_type_allowed(types: frozenset[str], kind: ConnectionType) -> bool:
    """Whether this kind of connection is among those that claims allow."""
    return not types or kind.value in types
