"""Settings that nobody typed: variables, and ``[tool.qbridge]`` of the nearest ``pyproject.toml``.

Both are called like the options: ``--dead`` of ``qbridge declare`` is ``QBRIDGE_DECLARE_DEAD``, and ``dead`` in
``[tool.qbridge.declare]``.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

SHARED: Final = ("url", "url_file")
"""What stands in the table itself and holds for each command; others stand in the table of their command."""
_FILE: Final = "pyproject.toml"


def underscored(name: str) -> str:
    """A name of a command or an option as a setting has it; both may be written."""
    return name.replace("-", "_")


def settings_of_project() -> dict[str, Any]:
    """The settings of the project that the current directory is in; none where it is in none.

    Raises:
        click.UsageError: the file cannot be read.
    """
    try:
        directory = Path.cwd()
    except OSError:  # somebody has deleted it
        return {}
    for parent in (directory, *directory.parents):
        file = parent / _FILE
        if os.path.isfile(file):  # False also where a directory must not be looked into
            return _read(file)
    return {}


def _read(file: Path) -> dict[str, Any]:
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as exc:
        raise click.UsageError(f"{file} cannot be read: {exc}") from exc
    tool = project.get("tool")
    found = tool.get("qbridge", {}) if isinstance(tool, Mapping) else {}
    if not isinstance(found, Mapping):
        raise click.UsageError(f"[tool.qbridge] in {file} is no table")
    return _named(found, file.parent)


def _named(table: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """The table with names as ``underscored`` has them; a file is meant as seen from the project."""
    named: dict[str, Any] = {}
    for name, value in table.items():
        if isinstance(value, Mapping):
            named[underscored(name)] = _named(value, directory)
        elif underscored(name) == "url_file" and isinstance(value, str):
            named["url_file"] = str(directory / Path(value).expanduser())
        else:
            named[underscored(name)] = value
    return named


def shared(name: str) -> Any:
    """A setting that holds for each command; ``None`` without one.

    Raises:
        click.UsageError: it is no text.
    """
    settings = click.get_current_context().find_root().obj
    value = settings.get(name) if isinstance(settings, Mapping) else None
    if value is not None and not isinstance(value, str):
        raise click.UsageError(f"{name.replace('_', '-')} in [tool.qbridge] is a text, not {value!r}")
    return value


def _options(command: click.Command) -> dict[str, click.Option]:
    """The options of a command by what their settings are called."""
    options = (each for each in command.params if isinstance(each, click.Option))
    return {underscored(max(option.opts, key=len).lstrip("-")): option for option in options}


def use_variables(command: click.Command, prefix: str) -> None:
    """Let each option of a command have a variable; it counts before one that other commands have, too."""
    for name, option in _options(command).items():
        others = [option.envvar] if isinstance(option.envvar, str) else option.envvar or ()
        own = f"{prefix}_{name.upper()}"
        option.envvar = [own, *(each for each in others if each != own)]


def read_settings(command: click.Command, name: str, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of a command, by the names of its parameters.

    Args:
        command: the command.
        name: what it is called.
        settings: those of the group that it is in.

    Raises:
        click.UsageError: they are no table, or one has no such option or is nothing for it.
    """
    table = (settings or {}).get(underscored(name), {})
    if not isinstance(table, Mapping):
        raise click.UsageError(f"{name} in [tool.qbridge] is a table with the options of that command")
    options, values = _options(command), {}
    for each, value in table.items():
        if each not in options:
            known = ", ".join(sorted(known.replace("_", "-") for known in options))
            raise click.UsageError(f"[tool.qbridge.{name}] has no option {each!r}; it has: {known}")
        several = options[each].multiple
        if isinstance(value, Mapping) or (isinstance(value, list) and not several):
            raise click.UsageError(f"{each.replace('_', '-')} in [tool.qbridge.{name}] is one value, not {value!r}")
        values[str(options[each].name)] = [value] if several and not isinstance(value, list) else value
    return values
