"""For those who set up ``logging``, or look at records.

``flush`` waits until ``logging`` has handled what QBridge has logged, for example before a test looks at it.
:class:`JsonFormatter` makes one JSON object of each record.
"""

from qbridge_core.runtime.logjson import JsonFormatter
from qbridge_core.runtime.logs import flush

__all__ = ["JsonFormatter", "flush"]
