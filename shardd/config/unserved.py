"""Blocks and settings of nats-server that shardd reads, checks for their shape and does not serve.

A file that works for nats-server works here, and what it would have done is said once at start.
"""

from collections.abc import Mapping
from typing import Final

from shardd.config.reading import Notes, write_timeout_of
from shardd.config.tree import Entry, Section

# Features whose absence an operator has to know of, with what the log calls them.
BLOCKS: Final[Mapping[str, str]] = {
    "jetstream": "JetStream",
    "leafnodes": "leaf nodes",
    "leaf": "leaf nodes",
    "gateway": "gateways",
    "mqtt": "MQTT",
}

Keys = Mapping[str, "Keys | None"]  # what may stand in a block, and what in the blocks inside it


def _names(text: str, **inner: Keys) -> Keys:
    return {**dict.fromkeys(text.split()), **inner}


_TLS: Final = _names(
    "cert_file key_file ca_file verify verify_and_map insecure timeout cipher_suites"
    " curve_preferences min_version connection_rate_limit pinned_certs handshake_first first"
    " immediate certs cert_store cert_match cert_match_by cert_match_skip_invalid ca_certs_match"
    " ocsp_peer allow_insecure_cipher_suites verify_cert_and_check_known_urls"
)
_LISTENER: Final = "listen port host net"
_REMOTE: Final = _names(
    "url urls account local credentials creds nkey seed deny_imports deny_import deny_exports"
    " deny_export no_randomize hub websocket_compression websocket_no_masking ws_compression"
    " ws_no_masking jetstream_cluster_migrate js_cluster_migrate first_info_timeout compression"
    " disabled isolate_leafnode_interest isolate request_isolation proxy"
    " ignore_discovered_servers",
    tls=_TLS,
)
# What nats-server knows in these blocks: a mistake in one is found here too.
_KEYS: Final[Mapping[str, Keys]] = {
    "jetstream": _names(
        "enabled enable strict store_dir storedir store max_memory_store max_mem_store max_mem"
        " max_file_store max_file domain key ek encryption_key prev_key prev_encryption_key prev_ek"
        " cipher extension_hint unique_tag max_outstanding_catchup max_buffered_msgs"
        " max_buffered_size request_queue_limit info_queue_limit meta_compact meta_compact_size"
        " meta_compact_sync sync_interval sync",
        tpm=_names("keys_file encryption_password srk_password pcr cipher"),
        limits=_names("max_ack_pending max_ha_assets max_request_batch duplicate_window batch"),
    ),
    "leafnodes": _names(
        f"{_LISTENER} reconnect reconnect_delay reconnect_interval advertise no_advertise"
        " compression min_version isolate_leafnode_interest isolate write_deadline write_timeout",
        tls=_TLS,
        remotes=_REMOTE,
        authorization=_names(
            "user username pass password timeout users account nkey proxy_required"
        ),
    ),
    "gateway": _names(
        f"name {_LISTENER} advertise connect_retries connect_backoff reject_unknown"
        " reject_unknown_cluster write_deadline write_timeout",
        tls=_TLS,
        gateways=_names("name url urls", tls=_TLS),
        authorization=_names(
            "user username pass password token timeout users permissions default_permissions"
            " proxy_required auth_callout"
        ),
    ),
    "mqtt": _names(
        f"{_LISTENER} no_auth_user ack_wait ackwait max_ack_pending max_pending js_domain"
        " stream_replicas consumer_replicas consumer_memory_storage consumer_inactive_threshold"
        " consumer_auto_cleanup reject_qos2_publish downgrade_qos2_subscribe js_api_timeout"
        " api_timeout",
        tls=_TLS,
        authorization=_names("user username pass password token timeout"),
    ),
}
# Of one account.
ACCOUNT_JETSTREAM: Final = _names(
    "max_memory max_mem mem max_store max_file disk store max_streams streams max_consumers"
    " consumers max_bytes_required max_stream_bytes max_memory_stream_bytes mem_max_stream_bytes"
    " memory_max_stream_bytes max_disk_stream_bytes disk_max_stream_bytes store_max_stream_bytes"
    " max_ack_pending cluster_traffic"
)

# Settings that change nothing a client or an operator would miss, or that come later.
SETTINGS: Final[Mapping[str, tuple[type, ...]]] = {
    "trace_headers": (bool,),
    "max_traced_msg_len": (int,),
    "prof_port": (int,),
    "prof_block_rate": (int,),
    "write_timeout": (str,),
    "disable_sublist_cache": (bool,),
    "no_sublist_cache": (bool,),
    "proxy_protocol": (bool,),
    "proxies": (Section,),
    "connect_error_reports": (int,),
    "reconnect_error_reports": (int,),
    "server_tags": (str, list),
    "server_metadata": (Section,),
    "feature_flags": (Section,),
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
        "prof_port",
        "ocsp",
    )
)
# What would let in, or lead astray, whoever relies on it.
REFUSED: Final[Mapping[str, str]] = {
    "proxy_protocol": "the PROXY protocol",
    "proxies": "trusted proxies",
}
_OFF: Final = (False, "disabled", "disable", "off", 0, "never")


def check_keys(section: Section, keys: Keys) -> None:
    """Raises ConfigError for a key that nats-server does not know in this block."""
    for entry in section:
        if entry.key.lower() not in keys:
            if not entry.is_variable:
                raise entry.place.error(f'unknown field "{entry.key}"')
            continue
        inner = keys[entry.key.lower()]
        value = entry.value.value
        blocks = [each.value for each in value] if isinstance(value, list) else [value]
        for block in blocks:
            if inner is not None and isinstance(block, Section):
                check_keys(block, inner)


def is_unserved(key: str) -> bool:
    """Whether this module knows the key."""
    return key in BLOCKS or key in SETTINGS


def read_unserved(entry: Entry, notes: Notes) -> None:
    """Checks the shape and notes what will be missing. Raises ConfigError for a wrong type."""
    key = entry.key.lower()
    value = entry.value.value
    where = f"{entry.place.file}:{entry.place.line}"
    if key in BLOCKS:
        if isinstance(value, Section):
            check_keys(value, _KEYS["leafnodes" if key == "leaf" else key])
        if value not in _OFF:
            notes.warnings.append(f"{where}: {key}: {BLOCKS[key]} not served by shardd")
        return
    types = SETTINGS[key]
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise entry.place.error(f"{entry.key} has a value of the wrong type")
    if key == "write_timeout":
        write_timeout_of(entry)
    if value in _OFF:
        return
    if key in REFUSED:
        raise entry.place.error(f"{entry.key}: shardd does not serve {REFUSED[key]}")
    if key in _TOLD:
        notes.warnings.append(f"{where}: {key} is not served by this version of shardd")
