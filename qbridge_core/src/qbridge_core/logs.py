"""``flush`` waits until ``logging`` has handled what QBridge has logged, for example before a test looks at it."""

from qbridge_core.runtime.logs import flush

__all__ = ["flush"]
