"""``qbridge worker``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from qbridge_core.cli.broker import chosen_url, known_url, url_options
from qbridge_core.cli.command import Command
from qbridge_core.cli.targets import make_importable
from qbridge_core.cli.worker.backoffs import read_backoff
from qbridge_core.cli.worker.logs import JSON, LEVELS, TEXT
from qbridge_core.cli.worker.probes import Probes
from qbridge_core.telemetry.health import STALL

_COUNT: Final = click.IntRange(min=1)
_PORT: Final = click.IntRange(1, 65_535)
_SECONDS: Final = click.FloatRange(min=0)
_ABOVE_ZERO: Final = click.FloatRange(min=0, min_open=True)
_CONCURRENCY: Final = "concurrency"


class _Text(click.ParamType):  # type: ignore[type-arg]  # older releases of click take none
    """What may be given several times; a variable is one text, for names may have spaces in them."""

    name = "text"

    def split_envvar_value(self, rv: str) -> list[str]:
        return [rv]


def _queues(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...] | None:
    """The names in all -Q; an empty one, as of a shell variable that is not set, is not all queues."""
    found = [tuple(name.strip() for name in text.split(",") if name.strip()) for text in given]
    if not all(found):
        raise click.BadParameter("this names no queue; to work on all queues, leave the option out")
    return tuple(name for names in found for name in names) or None


OF_HANDLERS: Final[dict[str, dict[str, Any]]] = {
    "queue": {"metavar": "QUEUE", "help": "where its tasks come from"},
    "dead": {"metavar": "QUEUE", "help": "the dead-letter queue; without it QUEUE.dead"},
    "max_retries": {"metavar": "N", "type": click.IntRange(min=0), "help": "retries after the first failed run (3)"},
    "task_timeout": {"metavar": "SECONDS", "type": _ABOVE_ZERO, "help": "how long a run may take (10)"},
    _CONCURRENCY: {"metavar": "N", "type": _COUNT, "help": "how many tasks run at once"},
    "executor": {"type": click.Choice(("thread", "process")), "help": "what they run in (thread)"},
    "backoff": {
        "metavar": "BACKOFF",
        "type": read_backoff,
        "help": "seconds before a retry (0): 5, linear:FIRST[:LONGEST] or exponential:FIRST[:LONGEST]",
    },
    "grace_period": {"metavar": "SECONDS", "type": _SECONDS, "help": "how long running tasks get at the end (25)"},
    "max_crashes": {"metavar": "N", "type": click.IntRange(min=2), "help": "worker processes that a task may kill (3)"},
    "max_tasks_per_child": {"metavar": "N", "type": _COUNT, "help": "runs after which its process is replaced"},
    "max_memory_per_child": {"metavar": "BYTES", "type": _COUNT, "help": "memory above which its process is replaced"},
    "lifespan": {"metavar": "MODULE:NAME", "help": "what opens, and closes, what its tasks share"},
}
"""The options that make the manager of a handler: called like the arguments of ``TaskManager``, with few exceptions."""


def _handler_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, settings in reversed(OF_HANDLERS.items()):
        flags = [f"--{name.replace('_', '-')}", *(["-c"] if name == _CONCURRENCY else [])]
        command = click.option(*flags, **{**settings, "help": f"Of a handler: {settings['help']}."})(command)
    return command


@click.command(cls=Command)
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.option(
    "-Q", "--queues", metavar="QUEUE,...", type=_Text(), multiple=True, callback=_queues,
    help="Of an App: work on these queues only, in place of all; may be repeated.",
)  # fmt: skip
@click.option("--processes", metavar="N", default=1, type=_COUNT, help="Worker processes (1), each with all TARGETs.")
@click.option("--reload", is_flag=True, help="Start anew when a Python file changes; needs the extra reload.")
@click.option(
    "--reload-dir", metavar="DIR", multiple=True, type=click.Path(path_type=Path),
    help="Where to look for that, in place of the current directory; may be repeated.",
)  # fmt: skip
@click.option("--until-idle", is_flag=True, help="For jobs: stop when all queues are empty, and say what was done.")
@click.option(
    "--start-timeout", metavar="SECONDS", default=0.0, type=_SECONDS,
    help="How long to wait for a broker that is not up yet (0).",
)  # fmt: skip
@click.option(
    "--log-level", type=click.Choice(LEVELS, case_sensitive=False), help="Without it info, or what the program sets up."
)
@click.option(
    "--log-format", type=click.Choice((TEXT, JSON), case_sensitive=False),
    help="Lines of text, or a JSON object in each line; without it text, or what the program sets up.",
)  # fmt: skip
@click.option(
    "--metrics-port", metavar="PORT", type=_PORT,
    help="Show /metrics for Prometheus at this port, of all processes together, and what --health-port does; needs "
    "the extra prometheus.",
)  # fmt: skip
@click.option(
    "--health-port", metavar="PORT", type=_PORT,
    help="Show /livez and /readyz at this port: 200, or 503 with the reason.",
)  # fmt: skip
@click.option(
    "--metrics-host", "--health-host", metavar="HOST", default="127.0.0.1",
    help="The address for both: 127.0.0.1, which this machine alone reaches; 0.0.0.0 for probes of Kubernetes.",
)  # fmt: skip
@click.option(
    "--health-file", metavar="PATH", type=click.Path(path_type=Path, dir_okay=False),
    help="Touch this file every other second while the worker is alive; it says whether it is ready.",
)  # fmt: skip
@click.option(
    "--health-stall", metavar="SECONDS", default=STALL, type=_ABOVE_ZERO,
    help="How long something may hang before the worker is not alive (30).",
)  # fmt: skip
@_handler_options
@url_options
@click.pass_context
def command(
    context: click.Context,
    /,
    targets: tuple[str, ...],
    queues: tuple[str, ...] | None,
    processes: int,
    reload: bool,
    reload_dir: tuple[Path, ...],
    until_idle: bool,
    start_timeout: float,
    log_level: str | None,
    log_format: str | None,
    metrics_port: int | None,
    health_port: int | None,
    metrics_host: str,
    health_file: Path | None,
    health_stall: float,
    url: str | None,
    url_file: Path | None,
    **settings: Any,
) -> None:
    """Run a worker on one queue or several.

    A TARGET is module:name of an App, of a function without arguments that returns a TaskManager, of a TaskManager, or,
    as the only TARGET, of a handler; then --queue and the other options make the TaskManager. Modules of the current
    directory can be imported. Several queues, those of an App or of several TARGETs, are one worker program: they start
    and stop together, and when one ends with an error, all do.

    SIGTERM and Ctrl-C stop gracefully, with exit code 0; a second signal stops at once, a third one kills. Without
    --processes and --reload the worker is one process, with no supervisor.
    """
    given = _given(context)
    _check(targets, given, processes=processes, reload=reload, until_idle=until_idle, folders=reload_dir)
    _check_pages(
        context, is_shown=metrics_port is not None or health_port is not None, has_file=health_file is not None
    )
    if metrics_port is not None and health_port is not None:
        raise click.UsageError("--metrics-port shows the pages of --health-port, too: leave that out")
    queue = settings.pop("queue")
    chosen = chosen_url(url, url_file) if queue is not None else known_url(url, url_file)
    arguments = {"max_workers" if name == _CONCURRENCY else name: v for name, v in settings.items() if v is not None}
    make_importable()
    # What runs workers takes half of the time of a --help.
    from qbridge_core.cli.worker.running import run_here
    from qbridge_core.cli.worker.showing import shown
    from qbridge_core.cli.worker.target import Target

    found = [Target(name, chosen, queue, arguments, given, log_level, log_format, queues) for name in targets]
    probes = Probes(health_file, health_stall)
    with shown(metrics_port, health_port, metrics_host, probes) as recorder:
        if processes == 1 and not reload:
            run_here(found, start_timeout, until_idle, recorder, probes)
            return
        from qbridge_core.cli.worker.supervised import run_reloading, run_supervised  # not needed by a worker alone

        if reload:
            run_reloading(found, processes, start_timeout, reload_dir or (Path.cwd(),), recorder, probes)
        else:
            run_supervised(found, processes, start_timeout, recorder, probes)


def _given(context: click.Context) -> tuple[str, ...]:
    """The options of a handler that stand somewhere. A broker may be in the environment for other commands, too."""
    names = [name for name in OF_HANDLERS if context.get_parameter_source(name) is not ParameterSource.DEFAULT]
    names += [name for name in ("url", "url_file") if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    return tuple(f"--{name.replace('_', '-')}" for name in names)


def _check_pages(context: click.Context, *, is_shown: bool, has_file: bool) -> None:
    """Refuse what changes nothing; a variable may be there for other workers, too."""
    if not is_shown and context.get_parameter_source("metrics_host") is ParameterSource.COMMANDLINE:
        raise click.UsageError(
            "--health-host (or --metrics-host) shows nothing without --health-port or --metrics-port"
        )
    if not (is_shown or has_file) and context.get_parameter_source("health_stall") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--health-stall is for --health-port, --metrics-port or --health-file: give one of them")


def _check(
    targets: tuple[str, ...],
    given: tuple[str, ...],
    *,
    processes: int,
    reload: bool,
    until_idle: bool,
    folders: tuple[Path, ...],
) -> None:
    if until_idle and (processes > 1 or reload):
        raise click.UsageError("--until-idle is for one process: leave out --processes and --reload")
    if folders and not reload:
        raise click.UsageError("--reload-dir says where --reload looks; add --reload")
    if len(targets) > 1 and given:
        raise click.UsageError(
            f"{', '.join(given)}: for one handler; of several targets each is a function that returns a TaskManager "
            "with settings of its own"
        )
