"""``qbridge send``."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from stat import S_ISREG

import click

from qbridge_core.cli.broker import with_client
from qbridge_core.cli.command import Command
from qbridge_core.cli.exits import Failed, failure_of
from qbridge_core.cli.interrupts import ended_by_signals
from qbridge_core.cli.output import counted, json_option, print_json
from qbridge_core.cli.sending.lines import read_lines
from qbridge_core.cli.sending.progress import Meter
from qbridge_core.cli.sending.stream import NoTaskError, Stream
from qbridge_core.contract.client import QueueClient
from qbridge_core.errors import QBridgeError, UnroutableError
from qbridge_core.runtime.logtexts import escaped


@click.command(cls=Command)
@click.argument("queue")
@click.argument("source", required=False, metavar="[JSON | @FILE | -]")
@click.option("--delay", type=float, default=0.0, metavar="SECONDS", help="They may be delivered so much later.")
@click.option(
    "--expires",
    type=float,
    metavar="SECONDS",
    help="What no worker has begun by then does not run: it is a dead letter.",
)
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header; may be given several times.")
@click.option(
    "--task-id", metavar="ID", help="Its id; of lines ID-1, ID-2 and so on, the same when they are sent again."
)
@click.option(
    "--task", metavar="NAME", help="Which task of an App they are; the payload is an object of its parameters."
)
@click.option(
    "--skip", type=click.IntRange(0), metavar="N", help="Leave out the first N lines, which were sent before."
)
@json_option
@with_client
def command(
    client: QueueClient,
    queue: str,
    source: str | None,
    delay: float,
    expires: float | None,
    headers: Sequence[str],
    task_id: str | None,
    task: str | None,
    skip: int | None,
    as_json: bool,
) -> None:
    """Send tasks to QUEUE: the payload JSON, or one from each line of a file or of the standard input (-).

    It ends when the broker has confirmed all of them. Where that fails it says how many lines are confirmed, all from
    the beginning; --skip goes on behind them. Some hundred later ones may be there, too. An input that has no end is
    sent as it comes.

    With --json an object: "queue", "sent" (tasks), "lines" (those that are confirmed, for --skip) and "task_id" (of
    one).
    """
    stream = Stream(
        client,
        queue,
        delay=delay,
        expires=expires,
        headers=_headers(headers),
        task_id=task_id,
        name=task,
        skip=skip or 0,
    )
    if source is None or source == "-" or source.startswith("@"):
        _send_lines(stream, source, as_json)
    elif skip is None:
        _send_one(stream, source, as_json)
    else:
        raise click.UsageError("--skip is for lines, not for one task")


def _headers(given: Sequence[str]) -> dict[str, str] | None:
    pairs = [each.partition("=") for each in given]
    for name, equals, _ in pairs:
        if not equals:
            raise click.UsageError(f"--header is NAME=VALUE, not {name!r}")
    return {name: value for name, _, value in pairs} or None


def _send_one(stream: Stream, source: str, as_json: bool) -> None:
    try:
        task_id = stream.send(source.encode("utf-8", "surrogateescape"))
    except NoTaskError as exc:
        hint = f"; a text is '\"{source}\"', a file @{source}" if source.isalnum() else ""
        raise click.UsageError(escaped(f"this is {exc}{hint}")) from exc
    except UnroutableError as exc:
        raise Failed(_missing(stream)) from exc
    if as_json:
        _print(stream, task_id)
    else:
        click.echo(escaped(f"sent to {stream.queue}: {task_id}"))


def _send_lines(stream: Stream, source: str | None, as_json: bool) -> None:
    with _opened(source) as descriptor:
        try:
            with ended_by_signals(), _explained(stream):
                rate = _pump(stream, descriptor)
        finally:
            if as_json:
                _print(stream, None)
    if not as_json:
        click.echo(escaped(f"sent {counted(stream.sent, 'task')} to {stream.queue}{rate}"))


def _print(stream: Stream, task_id: str | None) -> None:
    print_json({"queue": stream.queue, "sent": stream.sent, "lines": stream.lines, "task_id": task_id})


@contextmanager
def _opened(source: str | None) -> Iterator[int]:
    """The input; without one what is piped in."""
    if source is None and (sys.stdin is None or sys.stdin.isatty()):
        raise click.UsageError("send what? Give JSON, @FILE, or - for lines that you write here")
    if source in {None, "-", "@-"}:
        if sys.stdin is None:
            raise click.UsageError("the standard input is closed")
        if sys.stdin.isatty():
            click.echo("a task in JSON on each line; Ctrl-D ends", err=True)
        yield sys.stdin.fileno()
        return
    file = str(source)[1:]
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except (OSError, ValueError) as exc:
        raise click.UsageError(f"{escaped(file)!r} cannot be read: {getattr(exc, 'strerror', exc)}") from exc
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _pump(stream: Stream, descriptor: int) -> str:
    """Send all lines; say how quick that was, where somebody watches."""
    found, watched = os.fstat(descriptor), not os.isatty(descriptor)
    lines, read = 0, 0
    with Meter(found.st_size if S_ISREG(found.st_mode) else None, watched) as meter:
        for part in read_lines(descriptor, stream.longest):
            stream.send_lines(part)
            lines = part[-1].number
            read += sum(len(line.text) + 1 for line in part)
            meter.show(read, stream.sent)
        if lines < stream.skip:
            raise Failed(f"there is nothing to skip: the input has {lines:,} lines, not {stream.skip:,}")
        return meter.summary(stream.sent)


@contextmanager
def _explained(stream: Stream) -> Iterator[None]:
    """Let what goes wrong say how far the tasks are confirmed."""
    try:
        yield
    except NoTaskError as exc:
        lines = [f"line {exc.line} is {exc}", _confirmed(stream), "nothing behind that line was sent"]
        lines.append(f"go on with --skip {exc.line - 1} when it is mended, or behind it with --skip {exc.line}")
        raise Failed("\n".join(map(escaped, lines))) from exc
    except UnroutableError as exc:
        raise Failed("\n".join([_missing(stream), _confirmed(stream)])) from exc
    except (QBridgeError, KeyboardInterrupt) as exc:
        kind, what = (failure_of(exc), str(exc)) if isinstance(exc, QBridgeError) else (Failed, "stopped")
        lines = [what, _confirmed(stream), f"go on with --skip {stream.lines}"]
        if stream.last > stream.lines:
            lines[2:2] = [f"of lines {stream.lines + 1} to {stream.last} some may have been sent, too"]
        raise kind("\n".join(map(escaped, lines))) from exc
    except OSError as exc:
        if exc.filename is not None:
            raise
        raise Failed(f"the input cannot be read: {exc.strerror}\n{_confirmed(stream)}") from exc


def _confirmed(stream: Stream) -> str:
    up_to = f", all up to line {stream.lines}" if stream.lines else ""
    return f"{stream.sent:,} tasks are confirmed{up_to}"


def _missing(stream: Stream) -> str:
    if not stream.is_shared:
        return f"there is no queue {stream.queue!r}: this broker lives in its process, and this process has just begun"
    return escaped(f"there is no queue {stream.queue!r}; create it with: qbridge declare {shlex.quote(stream.queue)}")
