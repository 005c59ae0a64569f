"""Commands as the program has them: loaded when they are called, with settings from a file, and errors as one line."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import click

from qbridge_core.cli.exits import as_failures
from qbridge_core.cli.settings import read_settings, underscored, use_variables


class _WithoutHelpVariable(click.Command):
    """A variable ``QBRIDGE_…_HELP`` means nothing."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """As click does."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.allow_from_autoenv = False
        return option


class Command(_WithoutHelpVariable):
    """A command that refuses settings that it does not have, and tells of QBridge's errors in one line."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As click does, with settings and variables that are called like the options."""
        if parent is not None and info_name is not None:
            use_variables(self, f"{parent.auto_envvar_prefix}_{underscored(info_name).upper()}")
            extra["default_map"] = read_settings(self, info_name, parent.default_map)
        return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with as_failures():
            return super().invoke(ctx)


class Group(_WithoutHelpVariable, click.Group):
    """A group of commands, each imported when it is called.

    Args:
        where: the module that has the command ``name`` as its attribute ``command``, by name.
    """

    command_class = Command

    def __init__(self, *args: Any, where: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.where = where

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names of all, of which none is imported."""
        return sorted(self.where)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one."""
        if cmd_name not in self.where:
            return None
        found: click.Command = importlib.import_module(self.where[cmd_name]).command
        return found

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As click does, with a look at the settings."""
        if parent is not None and parent.default_map is not None and info_name is not None:
            settings = parent.default_map.get(underscored(info_name))
            if settings is not None and not isinstance(settings, Mapping):
                raise click.UsageError(f"{info_name} in [tool.qbridge] is a table with the settings of its commands")
            extra.setdefault("default_map", settings)
        context = super().make_context(info_name, args, parent, **extra)
        self.check_settings(context)
        return context

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; who writes an option of a command before the command is told where it belongs."""
        words = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as exc:
            if not (path := self._owner(ctx, exc.option_name, words)):
                raise
            said = f"No such option {exc.option_name!r} here."
            hint = f"It stands behind the command: {ctx.command_path} {path} {exc.option_name}"
            raise click.NoSuchOption(exc.option_name, f"{said} {hint}", ctx=ctx) from exc

    def _owner(self, ctx: click.Context, option: str, words: Sequence[str]) -> str:
        """The command among the words that has an option, or COMMAND where none is named and some command has it."""
        named = [word for word in words if word in self.where]
        for name in named or self.where:
            command = self.get_command(ctx, name)
            if isinstance(command, Group):
                if path := command._owner(ctx, option, words):
                    return f"{name} {path}" if named else "COMMAND"
            elif command is not None and any(option in each.opts for each in command.params):
                return name if named else "COMMAND"
        return ""

    def check_settings(self, context: click.Context, other: tuple[str, ...] = ()) -> None:
        """Refuse what no command of the group is called like.

        Raises:
            click.UsageError: the settings have such a name.
        """
        names = [underscored(name) for name in self.where]
        for name in context.default_map or ():
            if name not in (*names, *other):
                known = ", ".join(sorted([*self.where, *(each.replace("_", "-") for each in other)]))
                table = ".".join(["tool", *context.command_path.split()])
                raise click.UsageError(f"[{table}] has nothing called {name!r}; it has: {known}")
