"""`shardd start`: flags to a `Config`, then the supervisor.

Everything heavy is imported by the supervisor and the workers, after the flags have been read.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import click

from shardd.cli import flags
from shardd.cli.flags import FlagError, Kind
from shardd.config.core import Config
from shardd.errors import ConfigError
from shardd.version import SHARDD_VERSION

# Flags whose name is not that of the field which they set.
_FIELDS: Final = {"addr": "host", "name": "server_name", "pid": "pid_file", "log": "log_file"}
_TYPES: Final = {Kind.BOOLEAN: click.BOOL, Kind.INTEGER: click.INT, Kind.TEXT: click.STRING}


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
    """The checked configuration: `--set` first, the other flags over it."""
    config = Config()
    for setting in options.get("set", ()):
        key, equals, value = setting.partition("=")
        if not equals:
            raise ConfigError(f'--set takes KEY=VALUE, not "{setting}"')
        config = config.with_setting(key.strip(), value.strip())
    given = {
        _FIELDS.get(name, name): value
        for name, value in options.items()
        if name != "set" and value is not None
    }
    config = replace(config, **given)
    config.validate()
    return config


def start(**options: Any) -> int:
    """Runs the server in the foreground until it is told to stop."""
    config = build_config(options)
    from shardd import log, supervisor
    from shardd.worker.main import run as worker_main

    log.configure(config, "supervisor")
    return supervisor.run(config, worker_main)


command: Final = StartCommand(
    "start",
    callback=start,
    params=[
        click.Option(
            [f"--{flag.names[0]}", flag.names[0]],
            type=_TYPES[flag.kind],
            multiple=flag.names[0] == "set",
        )
        for section in flags.SERVED.values()
        for flag in section
        if not flag.stands_for and flag.names[0] not in ("help", "version")
    ],
    add_help_option=False,
    short_help="Run the server.",
)
