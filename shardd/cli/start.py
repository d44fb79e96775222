"""`shardd start`: a file and flags to a `Config`, then the supervisor.

What a flag says holds over what the file says (sheet 13.3), also when the file is read anew.
Everything heavy is imported by the supervisor and the workers, after the flags have been read.
"""

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from shardd.cli import flags, streaming
from shardd.cli.flags import FlagError, Kind
from shardd.config.core import Config
from shardd.config.load import Loaded, load_file, load_setting
from shardd.config.model import Account, Authorization, Cluster
from shardd.errors import ConfigError, ExitCode
from shardd.values import parse_route_url
from shardd.version import SHARDD_VERSION

if TYPE_CHECKING:
    from shardd.host import HostSetup

# Flags whose name is not that of the field which they set.
_FIELDS: Final = {"addr": "host", "name": "server_name", "pid": "pid_file", "log": "log_file"}
# Flags that set no field by themselves.
_OTHERS: Final = frozenset(
    (
        *("set", "config", "t", "signal", "user", "pass", "auth", "not_served"),
        *("tls", "tlscert", "tlskey", "tlsverify", "tlscacert"),
        *("routes", "cluster", "cluster_listen", "cluster_name", "cluster_advertise"),
        *("no_advertise", "connect_retries"),
        *streaming.NAMES,
    )
)
_TYPES: Final = {
    Kind.BOOLEAN: click.BOOL,
    Kind.INTEGER: click.INT,
    Kind.SIZE: click.INT,
    Kind.DURATION: click.STRING,
    Kind.TEXT: click.STRING,
}


class StartCommand(click.Command):
    """A command that reads its flags as nats-server does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            words = flags.normalise(args)
        except FlagError as error:
            click.echo(str(error), err=True)
            words = ["--help"]
        if words == ["--help"]:
            click.echo(self.get_help(ctx))
            ctx.exit(0)
        if words == ["--version"]:
            click.echo(f"shardd: v{SHARDD_VERSION}")
            ctx.exit(0)
        return super().parse_args(ctx, words)

    def get_help(self, ctx: click.Context) -> str:
        return flags.usage()


def build_config(options: Mapping[str, Any]) -> Config:
    """The checked configuration: the file first, `--set` over it, the other flags over both."""
    file = options.get("config") or streaming.shared_file(options)
    config = _with_flags(load_file(file) if file else None, options)
    config.validate()
    return config


def _with_flags(loaded: Loaded | None, options: Mapping[str, Any]) -> Config:
    fields: dict[str, Any] = dict(loaded.fields) if loaded is not None else {}
    for setting in options.get("set", ()):
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f'--set takes KEY=VALUE, not "{setting}"')
        given = dict(load_setting(key.strip(), value.strip()))
        given.pop("warnings", None)  # a number of seconds is fine on a command line
        fields.update(given)
    fields.update(
        {
            _FIELDS.get(name, name): value
            for name, value in options.items()
            if name not in _OTHERS and value is not None
        }
    )
    warnings = [
        f"{each} is not served by this version of shardd" for each in options.get("not_served", ())
    ]
    fields["warnings"] = (*fields.get("warnings", ()), *warnings)
    fields.update(_access(options))
    fields.update(_encryption(options, fields))
    fields.update(_clustering(options, fields))
    fields["streaming"], cautions = streaming.with_flags(options, fields.get("streaming"))
    fields["warnings"] = (*fields["warnings"], *cautions)
    return Config(**fields)


def _access(options: Mapping[str, Any]) -> dict[str, Any]:
    """One user, or a token, instead of whatever the file says."""
    user, password, token = (options.get(name) or "" for name in ("user", "pass", "auth"))
    if not (user or password or token):
        return {}
    if (user or password) and token:
        raise ConfigError("Cannot have a user/pass and token")
    return {"authorization": Authorization(user=user, password=password, token=token), "users": ()}


def _encryption(options: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """TLS by flags, over what the file says of it."""
    names = ("tlscert", "tlskey", "tlscacert")
    certificate, key, authority = (options.get(name) or "" for name in names)
    verify = bool(options.get("tlsverify"))
    if not (options.get("tls") or verify or certificate or key or authority):
        return {}
    from shardd.config.listeners import tls_from_files
    from shardd.config.tree import Place

    if fields.get("tls") is not None and not (certificate or key or authority):
        return {"tls": dataclasses.replace(fields["tls"], verify=verify or fields["tls"].verify)}
    if not certificate or not key:
        missing = "key" if certificate else "certificate"
        raise ConfigError(f"TLS Server {missing} must be present and valid")
    place = Place("--tlscert", 0, 0)
    return {
        "tls": tls_from_files(
            certificate, key, authority, verify, lambda path: Path(path).read_bytes(), place
        )
    }


def _clustering(options: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The cluster by flags, over what the file says of it."""
    changes: dict[str, Any] = {}
    listen = options.get("cluster") or options.get("cluster_listen")
    if listen:
        try:
            url = parse_route_url(listen)
        except ValueError as error:
            raise ConfigError(f"--cluster: {error}") from None
        changes |= {"host": url.host, "port": url.port, "user": url.user, "password": url.password}
    if options.get("routes"):
        changes["routes"] = tuple(each.strip() for each in options["routes"].split(","))
    names = {"cluster_name": "name", "cluster_advertise": "advertise"}
    names |= {"no_advertise": "no_advertise", "connect_retries": "connect_retries"}
    for flag, name in names.items():
        if options.get(flag) is not None:
            changes[name] = options[flag]
    if not changes:
        return {}
    cluster = fields.get("cluster")
    if cluster is None and not listen:
        if "routes" in changes:
            raise ConfigError("solicited routes require cluster capabilities, e.g. --cluster")
        return {}
    return {"cluster": dataclasses.replace(cluster or Cluster(), **changes)}


def _check(options: Mapping[str, Any]) -> int:
    """`-t`: says whether the file is valid, and starts nothing."""
    file = options.get("config")
    if not file:
        raise ConfigError("must specify file to validate with -t: shardd start -c FILE -t")
    loaded = load_file(file)
    if loaded.is_empty:
        raise ConfigError(f"{file}: config has no values or is empty")
    if loaded.conversions:
        raise ConfigError(loaded.conversions[0])
    config = _with_flags(loaded, options)
    check_contexts(config)
    digest = loaded.config.config_digest
    click.echo(f"shardd: configuration file {file} is valid ({digest})", err=True)
    return ExitCode.CLEAN


def check_contexts(config: Config) -> None:
    """What only the libraries can tell: certificates, suites and claims that fit together."""
    from shardd.auth.operator import accounts_of
    from shardd.tls import server_context

    websocket = config.websocket
    cluster = config.cluster
    for part in (config, websocket, cluster):
        if part is not None and part.tls is not None:
            server_context(part.tls)
    accounts = accounts_of(config)
    if any(account.mappings or account.imports for account in accounts):
        _check_spaces(config, accounts)


def _check_spaces(config: Config, accounts: tuple[Account, ...]) -> None:
    """Mappings and imports, made once as the workers will make them."""
    import random

    from shardd.host import number_accounts
    from shardd.router.dispatch import Dispatcher
    from shardd.router.spaces import Spaces
    from shardd.router.sublist import Sublist

    spaces = Spaces(Dispatcher(Sublist(), None, 0, 1), random.Random(0), b"check")
    try:
        spaces.apply(accounts, number_accounts(config.account_names, {}))
    except (KeyError, ValueError) as error:
        raise ConfigError(f"accounts: {error}") from None
    finally:
        spaces.close()


def start(**options: Any) -> int:
    """Runs the server in the foreground until it is told to stop."""
    if options.get("signal"):
        from shardd.cli import signals

        return signals.send(options["signal"])
    if options.get("t"):
        return _check(options)

    def read() -> Config:
        config = build_config(options)
        check_contexts(config)
        streaming.check_key(config.streaming)
        return config

    config = read()
    from shardd import log

    if config.streaming is not None and config.streaming.nats.urls:
        from shardd.streaming import alone

        log.configure(config, "streaming")
        return alone.run(config)
    from shardd import supervisor
    from shardd.worker.main import run as worker_main

    _import_what_is_shared(config)

    def main(setup: "HostSetup", index: int) -> int:
        if index in setup.streaming_slots:
            return streaming_main(setup, index)
        if index == setup.monitor_index:
            # In the child alone: what HTTP needs takes longer to import than the rest to start.
            from shardd.monitor.main import run as monitor_main

            return monitor_main(setup, index)
        if index == setup.router_index:
            return router_main(setup, index)
        return worker_main(setup, index, guard)

    guard = None
    if config.cluster is not None:
        from shardd.routes.main import run as router_main
    if config.streaming is not None:
        from shardd.streaming.guard import PREFIX, channel_subject
        from shardd.streaming.main import run as streaming_main

        if config.streaming.channel_permissions:
            guard = PREFIX, channel_subject
    log.configure(config, "supervisor")
    return supervisor.run(config, main, read if config.config_file is not None else None)


def _import_what_is_shared(config: Config) -> None:
    """What the workers import when they first need it, where this configuration needs it: before
    the fork, so that they share it and no client waits for it."""
    names = []
    if config.websocket is not None:
        names.append("shardd.worker.websocket")
    if config.needs_nonce:
        names.append("cryptography.hazmat.primitives.asymmetric.ed25519")
    if any(part is not None and part.tls is not None for part in (config, config.websocket)):
        names.append("shardd.auth.certificates")
    for name in names:
        import_module(name)


def streaming_alone(**options: Any) -> int:
    """Runs the streaming pool alone, as a client of NATS servers."""
    config = build_config(options)
    if config.streaming is None or not config.streaming.nats.urls:
        raise ConfigError("streaming runs alone with NATS servers elsewhere: name them with --nats")
    return start(**options)


def _params() -> list[click.Parameter]:
    return [
        click.Option(["--not_served", "not_served"], multiple=True),
        *(
            click.Option(
                [f"--{flag.names[0]}", flag.names[0]],
                type=_TYPES[flag.kind],
                multiple=flag.names[0] == "set",
            )
            for section in flags.SERVED.values()
            for flag in section
            if not flag.stands_for and flag.names[0] not in ("help", "version")
        ),
    ]


command: Final = StartCommand(
    "start",
    callback=start,
    params=_params(),
    add_help_option=False,
    short_help="Run the server.",
)

streaming_command: Final = StartCommand(
    "streaming",
    callback=streaming_alone,
    params=_params(),
    add_help_option=False,
    short_help="Run the streaming pool alone, with NATS servers elsewhere.",
)
