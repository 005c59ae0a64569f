"""Pages in the text format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from qbridge_core.contract.registry import how_to_install
from qbridge_core.errors import ConfigurationError
from qbridge_core.telemetry.figures import Figures
from qbridge_core.telemetry.pages import Page

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def page_of(registry: CollectorRegistry) -> Callable[[], Page]:
    """The page that shows a registry in the text format of Prometheus."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return lambda: Page(200, CONTENT_TYPE_LATEST, generate_latest(registry))


def page_of_figures(figures: Figures) -> Callable[[], Page]:
    """The page that shows figures, and nothing else.

    Raises:
        ConfigurationError: the extra is missing.
    """
    require_extra()
    from prometheus_client import CollectorRegistry

    from qbridge_core.contrib.prometheus.collector import FiguresCollector

    registry = CollectorRegistry()
    registry.register(FiguresCollector(figures))
    return page_of(registry)


def require_extra() -> None:
    """Refuse to go on without the extra.

    Raises:
        ConfigurationError: prometheus_client is not installed; the text says what to do.
    """
    if find_spec("prometheus_client") is None:
        raise ConfigurationError(f"metrics need prometheus_client; {how_to_install('prometheus')}")
