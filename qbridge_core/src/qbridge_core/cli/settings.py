"""Settings that nobody typed: ``[tool.qbridge]`` of the nearest ``pyproject.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

SHARED: Final = ("url", "url_file")
"""What stands in the table itself and holds for each command; others stand in the table of their command."""
_FILE: Final = "pyproject.toml"


def settings_of(directory: Path) -> dict[str, Any]:
    """The settings of the project that a directory is in; none where it is in none.

    Names have underscores where the options have dashes; both may be written.

    Raises:
        click.UsageError: the file cannot be read.
    """
    for parent in (directory, *directory.parents):
        file = parent / _FILE
        if file.is_file():
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
    return _named(found)


def _named(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name.replace("-", "_"): _named(value) if isinstance(value, Mapping) else value for name, value in table.items()
    }


def shared(name: str) -> Any:
    """A setting that holds for each command; ``None`` without one."""
    settings = click.get_current_context().find_root().obj
    return settings.get(name) if isinstance(settings, Mapping) else None
