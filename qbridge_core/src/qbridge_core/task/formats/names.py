"""Names of tasks as a format is given them."""

from __future__ import annotations

from qbridge_core.contract.checks import MAX_ID_CHARS
from qbridge_core.errors import ConfigurationError


def checked_name(name: object) -> str | None:
    """Return it.

    Raises:
        ConfigurationError: no task can be called so.
    """
    if name is not None and (not isinstance(name, str) or not 0 < len(name) <= MAX_ID_CHARS):
        raise ConfigurationError(f"task must be the name of a task, a string of 1 to {MAX_ID_CHARS}, not {name!r}")
    return name
