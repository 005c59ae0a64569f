"""``qbridge exporter``."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import click

from qbridge_core.cli.broker import chosen_url, url_options
from qbridge_core.cli.command import Command
from qbridge_core.cli.interrupts import ended_by_signals
from qbridge_core.cli.watching.exporting import QUEUES, Exported
from qbridge_core.cli.watching.overview import Overview, Row
from qbridge_core.contract.checks import check_queue_name
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.registry import connect
from qbridge_core.errors import QBridgeError, TransientError
from qbridge_core.runtime.clock import monotonic
from qbridge_core.runtime.logtexts import escaped
from qbridge_core.runtime.trying import keep_trying
from qbridge_core.telemetry.pages import Page, Pages, PageServer

_PORT: Final = 9709
_STALE: Final = 30.0


@click.command(cls=Command)
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=_PORT, metavar="PORT",
    help=f"Where to show it; {_PORT}, and 0 for any that is free.",
)  # fmt: skip
@click.option(
    "--host", default="127.0.0.1", metavar="HOST",
    help="The address to listen at; 127.0.0.1, which this machine alone reaches.",
)  # fmt: skip
@click.option(
    "--interval", type=click.FloatRange(1.0), default=5.0, metavar="SECONDS",
    help="How often the broker is asked; 5. A page that is asked for never asks it.",
)  # fmt: skip
@url_options
def command(
    queues: Sequence[str], port: int, host: str, interval: float, url: str | None, url_file: Path | None
) -> None:
    """Show over HTTP how much waits in each QUEUE, or in all that the broker lists, while no worker may run.

    /metrics is for Prometheus, and needs the extra prometheus. /queues/QUEUE is JSON for those who start and stop
    workers, as KEDA does (its scaler metrics-api): "queue", "ready", "in_flight", "delayed", "dead", "oldest_age",
    "paused", null for what the broker does not tell, and "backlog", which is what workers have to do now: ready and in
    flight, and 0 while the queue is paused. /queues has all of them. Both are a 503 while the broker does not answer,
    so that nobody takes it for an empty queue; a broker that is not up yet is waited for. A QUEUE that does not exist,
    as far as the broker lists what does, is named on standard error, has no numbers in /metrics, and its page is a 404.
    """
    url = chosen_url(url, url_file)
    pages = Pages()
    exported = Exported(pages, max(_STALE, 3 * interval), [check_queue_name(queue) for queue in queues])
    _add_metrics(pages, exported)
    try:
        with ended_by_signals(), PageServer(pages, host, port) as server:
            click.echo(f"shows /metrics and {QUEUES} at {host}:{server.port}", err=True)
            with _connected(url) as client:
                _look_for_ever(Overview(client, queues), exported, interval)
    except KeyboardInterrupt:
        return


def _add_metrics(pages: Pages, exported: Exported) -> None:
    from qbridge_core.contrib.prometheus.page import page_of_figures

    page = page_of_figures(exported.figures)

    def checked() -> Page:
        exported.check()
        return page()

    pages.add("/metrics", checked)


def _connected(url: str) -> QueueClient:
    """A client; a broker that is not up yet is waited for."""

    def say(left: float, exc: Exception) -> None:
        del left
        _complain(exc)

    return keep_trying(lambda: connect(url), math.inf, TransientError, say)


def _look_for_ever(overview: Overview, exported: Exported, interval: float) -> None:
    told = ""
    is_first = True
    absent: set[str] = set()
    while True:
        began = monotonic()
        try:
            rows, before = overview.look(), absent
            absent = overview.absent(rows)
            exported.brought([row for row in rows if row.queue not in absent])
            told = ""
            for queue in sorted(absent - before):
                _warn(f"there is no queue {queue!r}")
            if is_first:
                is_first = False
                _tell_doubts(overview, rows, absent)
        except QBridgeError as exc:
            exported.failed(str(exc))
            if str(exc) != told:
                _complain(exc)
            told = str(exc)
        time.sleep(max(0.0, began + interval - monotonic()))


def _tell_doubts(overview: Overview, rows: Sequence[Row], absent: Collection[str]) -> None:
    """Say what no page can, to whoever relies on them: a slip in a name looks like an empty queue."""
    doubts: list[str] = []
    if not absent:
        with suppress(QBridgeError):  # the exporter's user may have no right to look at more
            doubts = overview.doubts(rows)
    if not rows:
        doubts = ["no queues are found (RabbitMQ lists its queues with the option management_url only): name them"]
    elif all(row.in_flight is None for row in rows):
        doubts.append("the broker does not tell what runs, so backlog is what is ready")
    for doubt in doubts:
        _warn(doubt)


def _warn(text: str) -> None:
    click.echo(escaped(text), err=True)


def _complain(exc: Exception) -> None:
    trouble = "the broker does not answer" if isinstance(exc, TransientError) else "the queues cannot be looked at"
    click.echo(f"{trouble}: {escaped(str(exc))}", err=True)
