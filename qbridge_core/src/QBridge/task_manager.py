"""``from QBridge.task_manager import TaskManager``."""

from qbridge_core import TaskManager

__all__ = ["TaskManager"]
