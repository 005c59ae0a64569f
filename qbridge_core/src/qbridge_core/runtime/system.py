"""What child processes need of the operating system; sending, and workers that use threads, need none of it."""

from __future__ import annotations

import os

from qbridge_core.errors import ConfigurationError


def require_posix(what: str) -> None:
    """Refuse what works with signals, process groups and inherited descriptors where there are none.

    Args:
        what: the thing that needs them, as the beginning of a sentence.

    Raises:
        ConfigurationError: this is no POSIX system, or Python was built without a module that is needed.
    """
    missing = "" if os.name == "posix" else "signals and process groups"
    try:
        import fcntl  # noqa: F401 - only whether it is there
        import resource  # noqa: F401 - as above
    except ImportError as exc:
        missing = missing or f"the module {exc.name}"
    if missing:
        raise ConfigurationError(
            f"{what} needs a POSIX system (Linux, macOS or a BSD); here Python has no {missing}. "
            "Sending, and workers with executor='thread' in one process, work everywhere"
        )
