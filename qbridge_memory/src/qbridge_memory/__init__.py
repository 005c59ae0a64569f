"""The in-memory backend of QBridge: the reference for its semantics, and the broker for unit tests."""

from qbridge_memory.client import MemoryClient
from qbridge_memory.named import reset

__all__ = ["MemoryClient", "reset"]
