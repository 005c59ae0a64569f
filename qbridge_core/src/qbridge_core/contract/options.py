"""Options of a client: given by keyword or, as strings, in a URL's query; merged, checked and read."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Final

from qbridge_core.contract.checks import is_number
from qbridge_core.contract.headers import NO_HEADERS
from qbridge_core.contract.url import BrokerURL, is_utf8
from qbridge_core.errors import ConfigurationError, UnknownOptionError
from qbridge_core.runtime.logs import logger

OptionReader = Callable[[str, object], Any]
"""Checks one option: takes its name and what was given, a string where a URL says it, and returns the value."""

# What poll and epoll can wait: they take milliseconds in a signed int of 32 bits, and sockets rely on them.
_LONGEST_POLL: Final = 2_147_483.0
_USUAL: Final = 3600.0
_log: Final = logger("qbridge.options")


def read_options(
    url: BrokerURL,
    given: Mapping[str, object],
    readers: Mapping[str, OptionReader],
    hints: Mapping[str, str] = NO_HEADERS,
) -> dict[str, Any]:
    """The options of a URL's query with the keyword options over them, each read by its reader.

    Args:
        url: its query has strings only, so a reader takes ``"30"`` as well as ``30``.
        given: the keyword options; they win.
        readers: for each option that there is, what reads it: :func:`option_seconds`, :func:`option_count`, or a
            function of the backend's own that raises ``ConfigurationError`` for what makes no sense.
        hints: for names that other libraries use, what to write instead; added to the error.

    Raises:
        UnknownOptionError: an option has no reader; the message names those that have.
        ConfigurationError: a value makes no sense.
    """
    try:
        merged = merge_options(url, given, readers)
    except UnknownOptionError as exc:
        unknown = sorted({*url.query, *given} - set(readers))
        hint = "".join(f"; {name}: {hints[name]}" for name in unknown if name in hints)
        raise UnknownOptionError(f"{exc}{hint}") from None
    return {name: readers[name](name, value) for name, value in merged.items()}


def merge_options(url: BrokerURL, options: Mapping[str, object], known: Collection[str]) -> dict[str, object]:
    """The options of a URL's query with the keyword options over them.

    Raises:
        UnknownOptionError: an option is not in ``known``; the message names those that are.
        ConfigurationError: a value has a character that no broker could be told of.
    """
    merged: dict[str, object] = {**url.query, **options}
    unknown = sorted(set(merged) - set(known))
    if unknown:
        raise UnknownOptionError(
            f"unknown option{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, unknown))} for {url.scheme}://; "
            f"known options: {', '.join(sorted(known)) or 'none'}"
        )
    for name, value in merged.items():
        if isinstance(value, str) and not is_utf8(value):
            raise ConfigurationError(f"option {name} has a character that UTF-8 cannot express")
    return merged


def option_seconds(name: str, value: object, longest: float = _LONGEST_POLL, usual: float = _USUAL) -> float:
    """Read an option that is a duration above 0, from a keyword or, as text, from a URL.

    Args:
        name: the option.
        value: what was given, in seconds.
        longest: what is possible. The default is what the system can wait for on a socket.
        usual: above this the log warns that it may have been meant in milliseconds.

    Raises:
        ConfigurationError: it is no finite number, not above 0, or too long.
    """
    try:
        number = float(value) if isinstance(value, str) else value
    except ValueError:
        number = None
    if not is_number(number) or number <= 0:
        raise ConfigurationError(f"option {name} must be a positive number of seconds, not {value!r}")
    if number > longest:
        raise ConfigurationError(
            f"option {name} must be at most {longest:.0f} seconds, what the system can wait for, not {value!r}"
        )
    if number > usual:
        _log.warning("option %s is %g seconds, that is %.1f hours: was it meant in ms?", name, number, number / 3600)
    return float(number)


def option_count(name: str, value: object) -> int:
    """Read an option that is a whole number of at least 1, from a keyword or, as digits, from a URL.

    Raises:
        ConfigurationError: it is something else.
    """
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20 else value
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ConfigurationError(f"option {name} must be a whole number of at least 1, not {value!r}")
    return number
