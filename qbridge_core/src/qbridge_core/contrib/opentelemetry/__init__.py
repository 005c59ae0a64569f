"""Traces by OpenTelemetry: :class:`Tracing` is a plugin. It needs ``opentelemetry-api``, and no SDK.

Raises:
    ConfigurationError: when it is imported without ``opentelemetry-api``.
"""

from importlib.util import find_spec

from qbridge_core.contract.registry import how_to_install
from qbridge_core.errors import ConfigurationError

if find_spec("opentelemetry") is None or find_spec("opentelemetry.trace") is None:
    raise ConfigurationError(f"traces need opentelemetry-api; {how_to_install('opentelemetry')}")

from qbridge_core.contrib.opentelemetry.tracing import Tracing

__all__ = ["Tracing"]
