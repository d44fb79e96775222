"""Blocks and settings of nats-server that shardd reads, checks for their shape and does not serve.

A file that works for nats-server works here, and what it would have done is said once at start.
"""

from collections.abc import Mapping
from typing import Final

from shardd.config.reading import Notes
from shardd.config.tree import Entry, Section

# Features whose absence an operator has to know of, with what the log calls them.
BLOCKS: Final[Mapping[str, str]] = {
    "jetstream": "JetStream",
    "leafnodes": "leaf nodes",
    "leaf": "leaf nodes",
    "gateway": "gateways",
    "mqtt": "MQTT",
    "auth_callout": "authentication by callout",
}

# Settings that change nothing a client or an operator would miss, or that come later.
SETTINGS: Final[Mapping[str, tuple[type, ...]]] = {
    "trace_headers": (bool,),
    "log_size_limit": (int,),
    "log_max_num": (int,),
    "max_traced_msg_len": (int,),
    "syslog": (bool,),
    "remote_syslog": (str,),
    "prof_port": (int,),
    "prof_block_rate": (int,),
    "write_timeout": (str,),
    "disable_sublist_cache": (bool,),
    "proxy_protocol": (bool,),
    "proxies": (Section,),
    "connect_error_reports": (int,),
    "reconnect_error_reports": (int,),
    "server_tags": (str, list),
    "server_metadata": (Section,),
    "feature_flags": (Section,),
    "msg_trace": (Section, str),
    "resolver_tls": (Section,),
    "store_dir": (str,),
    "ocsp": (bool, str, Section),
    "ocsp_cache": (bool, Section),
    "default_js_domain": (Section,),
    "default_sentinel": (str,),
}
# Those of them that are worth a line at start.
_TOLD: Final = frozenset(
    (
        "syslog",
        "remote_syslog",
        "prof_port",
        "log_size_limit",
        "log_max_num",
        "ocsp",
    )
)
# What would let in, or lead astray, whoever relies on it.
REFUSED: Final[Mapping[str, str]] = {
    "proxy_protocol": "the PROXY protocol",
    "proxies": "trusted proxies",
}
_OFF: Final = (False, "disabled", "disable", "off", 0, "never")


def is_unserved(key: str) -> bool:
    """Whether this module knows the key."""
    return key in BLOCKS or key in SETTINGS


def read_unserved(entry: Entry, notes: Notes) -> None:
    """Checks the shape and notes what will be missing. Raises ConfigError for a wrong type."""
    key = entry.key.lower()
    value = entry.value.value
    where = f"{entry.place.file}:{entry.place.line}"
    if key in BLOCKS:
        if value not in _OFF:
            notes.warnings.append(f"{where}: {key}: {BLOCKS[key]} not served by shardd")
        return
    types = SETTINGS[key]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise entry.place.error(f"{entry.key} has a value of the wrong type")
    if value in _OFF:
        return
    if key in REFUSED:
        raise entry.place.error(f"{entry.key}: shardd does not serve {REFUSED[key]}")
    if key in _TOLD:
        notes.warnings.append(f"{where}: {key} is not served by this version of shardd")
