"""Commands as the program has them: loaded when they are called, with settings from a file, and errors as one line."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from qbridge_core.cli.exits import as_failures


class Command(click.Command):
    """A command that refuses settings that it does not have, and tells of QBridge's errors in one line."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As click does, after a look at the settings."""
        if parent is not None and parent.default_map and info_name is not None:
            self._check(parent.default_map.get(info_name.replace("-", "_")), info_name)
        return super().make_context(info_name, args, parent, **extra)

    def _check(self, settings: object, name: str) -> None:
        if settings is None:
            return
        if not isinstance(settings, Mapping):
            raise click.UsageError(f"{name} in [tool.qbridge] is a table with the options of that command")
        known = {each.name for each in self.params if isinstance(each, click.Option) and each.name}
        unknown = sorted(set(settings) - known)
        if unknown:
            options = ", ".join(sorted(each.replace("_", "-") for each in known))
            raise click.UsageError(f"[tool.qbridge.{name}] has no option {unknown[0]!r}; it has: {options}")

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with as_failures():
            return super().invoke(ctx)


class Group(click.Group):
    """A group of commands, each imported when it is called.

    Args:
        where: the module that has the command ``name`` as its attribute ``command``, by name.
    """

    command_class = Command

    def __init__(self, *args: Any, where: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._where = where

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        """The names of all, of which none is imported."""
        return sorted(self._where)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one."""
        if cmd_name not in self._where:
            return None
        found: click.Command = importlib.import_module(self._where[cmd_name]).command
        return found

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """As click does, with a look at the settings."""
        context = super().make_context(info_name, args, parent, **extra)
        self.check_settings(context)
        return context

    def check_settings(self, context: click.Context, other: tuple[str, ...] = ()) -> None:
        """Refuse what no command of the group is called like.

        Raises:
            click.UsageError: the settings have such a name.
        """
        names = [name.replace("-", "_") for name in self._where]
        for name in context.default_map or ():
            if name not in (*names, *other):
                known = ", ".join(sorted([*self._where, *(each.replace("_", "-") for each in other)]))
                raise click.UsageError(f"[tool.qbridge] has nothing called {name!r}; it has: {known}")
