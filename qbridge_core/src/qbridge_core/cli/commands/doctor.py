"""``qbridge doctor``."""

from __future__ import annotations

from pathlib import Path

import click
from click.core import ParameterSource

from qbridge_core.cli.broker import chosen_url, url_options
from qbridge_core.cli.command import Command
from qbridge_core.cli.output import json_option
from qbridge_core.cli.targets import make_importable
from qbridge_core.contract.findings import QueueUse


@click.command(cls=Command)
@click.argument("queues", metavar="[QUEUE]...", nargs=-1)
@click.option("--dead", metavar="QUEUE", help="The dead-letter queue of the only QUEUE; without it QUEUE.dead.")
@click.option(
    "--target", metavar="MODULE:NAME", help="An App, a TaskManager, a function that returns one, or a handler."
)
@click.option(
    "--termination-grace",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="How long Kubernetes or systemd waits before it kills a worker that stops.",
)
@json_option
@url_options
def command(
    queues: tuple[str, ...],
    dead: str | None,
    target: str | None,
    termination_grace: float | None,
    as_json: bool,
    url: str | None,
    url_file: Path | None,
) -> None:
    """Look for what bites people, and print what mends it.

    At the broker, at each QUEUE, and at the program that --target names, whose queue is looked at too, through its own
    client unless --url is given. Nothing is changed, and no message is taken out of a queue. What cannot be looked at
    is said to be not checked.

    Exit codes: 0 all is well or not checked, 1 something was found, 2 wrong usage, 3 the broker is away.

    With --json an array of objects: check, status (ok, warning, problem, not checked), text, mend, queue.
    """
    from qbridge_core.cli.checkup.report import print_findings
    from qbridge_core.cli.checkup.visit import Visit

    if dead is not None and len(queues) != 1:
        raise click.UsageError("--dead needs one QUEUE")
    visit = Visit([QueueUse(queue, dead) for queue in queues], termination_grace)
    if target is not None:
        make_importable()
        visit.build(target)
    has_url = url is not None or url_file is not None
    if target is None or (has_url and (visit.client is None or _typed_a_url())):
        visit.connect(chosen_url(url, url_file))
    visit.look()
    print_findings(visit.findings, as_json)
    click.get_current_context().exit(visit.code)


def _typed_a_url() -> bool:
    context = click.get_current_context()
    return any(context.get_parameter_source(name) is ParameterSource.COMMANDLINE for name in ("url", "url_file"))
