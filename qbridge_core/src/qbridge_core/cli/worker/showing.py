"""What a worker program shows over HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from qbridge_core.runtime.logs import logger
from qbridge_core.telemetry.pages import Pages, PageServer
from qbridge_core.telemetry.recorder import Recorder

_log = logger("qbridge.worker")


class Shown(NamedTuple):
    """What a program shows.

    Attributes:
        pages: at its port.
        recorder: what the page ``/metrics`` is made from.
    """

    pages: Pages
    recorder: Recorder


@contextmanager
def metrics_shown(port: int | None, host: str) -> Iterator[Shown | None]:
    """Show ``/metrics`` during a block; nothing where there is no port.

    Raises:
        ConfigurationError: nobody can listen there, or the extra is missing.
    """
    if port is None:
        yield None
        return
    from qbridge_core.contrib.prometheus.page import page_of_figures

    recorder = Recorder()
    pages = Pages()
    pages.add("/metrics", page_of_figures(recorder.figures))
    with PageServer(pages, host, port):
        _log.info("metrics are shown at http://%s:%d/metrics", host, port)
        yield Shown(pages, recorder)
