"""The plugin ``Metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbridge_core.contract.checks import require_seconds
from qbridge_core.contrib.prometheus.page import require_extra
from qbridge_core.errors import ConfigurationError
from qbridge_core.telemetry.recorder import LOOK_EVERY, Recorder

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


class Metrics(Recorder):
    """Counts what workers and clients do, for Prometheus: a plugin, one for all managers and clients of a process.

    Give it to ``TaskManager(..., plugins=[metrics])`` and ``connect(url, plugins=[metrics])``, or, where there are
    several worker processes, to ``Supervisor(..., metrics=metrics)``, which adds up what they have counted.
    ``docs/metrics.md`` lists the metrics. Thread-safe.

    Args:
        registry: where it is registered; ``None`` for the one that ``prometheus_client`` shows by itself.
        look_every: seconds between two looks at the queues of the managers at the broker, in a thread of its own;
            ``None`` for never, where another process does that. A look takes at most a twentieth of the time.

    Raises:
        ConfigurationError: the extra is missing; the registry is none, or has such metrics already; ``look_every`` is
            no time.
    """

    def __init__(self, registry: CollectorRegistry | None = None, *, look_every: float | None = LOOK_EVERY) -> None:
        require_extra()
        from prometheus_client import REGISTRY

        from qbridge_core.contrib.prometheus.collector import FiguresCollector

        if look_every is not None:
            require_seconds("look_every", look_every, positive=True)
        registry = REGISTRY if registry is None else registry
        if not hasattr(registry, "register"):
            raise ConfigurationError(f"a CollectorRegistry of prometheus_client is wanted, not {registry!r}")
        super().__init__(look_every)
        try:
            registry.register(FiguresCollector(self.figures))
        except ValueError as exc:  # its text lists all names
            raise ConfigurationError(
                "the registry has such metrics already: make one Metrics, and give it to all managers and clients of"
                " the process"
            ) from exc
