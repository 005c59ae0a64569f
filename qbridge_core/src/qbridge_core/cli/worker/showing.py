"""What a worker program shows over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from qbridge_core.cli.worker.probes import Probes
from qbridge_core.telemetry.healthpages import add_health
from qbridge_core.telemetry.pages import Pages, PageServer
from qbridge_core.telemetry.recorder import Recorder


@contextmanager
def shown(metrics_port: int | None, health_port: int | None, host: str, probes: Probes) -> Iterator[Recorder | None]:
    """Show pages during a block: ``/livez`` and ``/readyz`` where there is a port, ``/metrics`` where it is for that.

    Args:
        metrics_port: for all of them.
        health_port: for those about health alone.
        host: the address to listen at.
        probes: what the pages about health are made from.

    Raises:
        ConfigurationError: nobody can listen there, or the extra is missing.
    """
    port = health_port if metrics_port is None else metrics_port
    if port is None:
        yield None
        return
    pages, recorder, what = Pages(), None, "/livez and /readyz"
    add_health(pages, probes.health)
    if metrics_port is not None:
        from qbridge_core.contrib.prometheus.page import page_of_figures

        recorder, what = Recorder(), f"/metrics, {what}"
        pages.add("/metrics", page_of_figures(recorder.figures))
    with PageServer(pages, host, port):
        probes.shown = f"{what} are shown at http://{host}:{port}"
        yield recorder
