"""Says in words how a process ended."""

from __future__ import annotations

import signal


def describe_exit(status: int) -> str:
    """``died of SIGSEGV`` or ``exited with status 3``, from the ``returncode`` of a ``subprocess.Popen``."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"died of {signal.Signals(-status).name}"
    except ValueError:  # a real-time signal has a number only
        return f"died of signal {-status}"
