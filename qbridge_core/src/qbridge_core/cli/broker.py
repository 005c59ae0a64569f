"""Which broker is meant, and a client for it."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from qbridge_core.cli.settings import shared
from qbridge_core.contract.registry import connect

_ORDER: Final = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
"""What counts first; a file with settings counts last."""


def url_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--url`` and ``--url-file``. It gets both, for ``chosen_url``."""
    for decorator in (
        click.option(
            "--url-file",
            envvar="QBRIDGE_URL_FILE",
            default=lambda: shared("url_file"),
            type=click.Path(dir_okay=False, path_type=Path),
            metavar="FILE",
            help="A file with the broker's URL in its only line.",
        ),
        click.option(
            "--url",
            envvar="QBRIDGE_URL",
            default=lambda: shared("url"),
            metavar="URL",
            help="The broker, as in redis://host:6379/0.",
        ),
    ):
        command = decorator(command)
    return command


def chosen_url(url: str | None, url_file: Path | None) -> str:
    """The URL that counts: what was typed before a variable, a variable before a file with settings.

    Raises:
        click.UsageError: there is none, or two of the same rank; or the file cannot be read.
    """
    if url is not None and url_file is not None:
        ranks = _rank("url"), _rank("url_file")
        if ranks[0] == ranks[1]:
            raise click.UsageError("--url and --url-file say the same; give one of them")
        if ranks[0] > ranks[1]:
            url = None
    if url is not None:
        return url
    if url_file is not None:
        return _read(url_file)
    raise click.UsageError(
        'which broker? Give --url, or set QBRIDGE_URL, or write url = "redis://…" into [tool.qbridge] of pyproject.toml'
    )


def known_url(url: str | None, url_file: Path | None) -> str | None:
    """The same, or ``None`` where nobody has said.

    Raises:
        click.UsageError: there are two of the same rank, or the file cannot be read.
    """
    return None if url is None and url_file is None else chosen_url(url, url_file)


def _rank(name: str) -> int:
    source = click.get_current_context().get_parameter_source(name)
    return _ORDER.index(source) if source in _ORDER else len(_ORDER)


def _read(file: Path) -> str:
    try:
        lines = file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as exc:
        raise click.UsageError(f"the file with the URL cannot be read: {exc}") from exc
    if len(lines) != 1:
        raise click.UsageError(f"{file} has to contain one URL, and nothing else")
    return lines[0]


@contextmanager
def _without_warnings() -> Iterator[None]:
    """What a client warns of is said by the worker, and by the doctor, not again by each command."""
    log = logging.getLogger("qbridge")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def with_client(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command ``--url`` and ``--url-file``, and a connected client as the argument ``client``."""

    @functools.wraps(command)
    def connected(*args: Any, url: str | None, url_file: Path | None, **kwargs: Any) -> Any:
        with _without_warnings(), connect(chosen_url(url, url_file)) as client:
            return command(*args, client=client, **kwargs)

    return url_options(connected)
