"""``qbridge backends``."""

from __future__ import annotations

import click

from qbridge_core.cli.command import Command
from qbridge_core.cli.output import json_option, print_json, print_table
from qbridge_core.contract.registry import backends


@click.command(cls=Command)
@json_option
def command(as_json: bool) -> None:
    """List the kinds of URLs that this installation understands, and who serves them.

    With --json an object: a text for each scheme.
    """
    found = dict(sorted(backends().items()))
    if as_json:
        print_json(found)
    else:
        print_table(("scheme", "served by"), ((f"{scheme}://", served) for scheme, served in found.items()))
