"""Says in words how a process ended."""

from __future__ import annotations

from qbridge_core.runtime.signals import signal_name


def describe_exit(status: int) -> str:
    """``died of SIGSEGV`` or ``exited with status 3``, from the ``returncode`` of a ``subprocess.Popen``."""
    return f"exited with status {status}" if status >= 0 else f"died of {signal_name(-status)}"
