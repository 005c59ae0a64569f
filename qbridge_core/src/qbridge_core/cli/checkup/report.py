"""What was found, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

import click

from qbridge_core.cli.output import print_json
from qbridge_core.contract.findings import Finding, FindingStatus
from qbridge_core.runtime.logtexts import escaped

_ORDER: Final = (FindingStatus.PROBLEM, FindingStatus.WARNING, FindingStatus.NOT_CHECKED, FindingStatus.OK)
_COLOURS: Final = dict(zip(_ORDER, ("red", "yellow", "cyan", "green"), strict=True))
_WIDTH: Final = max(map(len, _ORDER)) + 2


def print_findings(findings: Sequence[Finding], as_json: bool) -> None:
    """Print all of them: as an array in the order of the checks, or what is worst first."""
    if as_json:
        print_json([asdict(each) for each in findings])
        return
    for status in _ORDER:
        for each in (finding for finding in findings if finding.status is status):
            _print(each)
    click.echo(_summary(findings))


def _print(finding: Finding) -> None:
    about = f"{finding.check} of {finding.queue}" if finding.queue else finding.check
    status = click.style(f"{finding.status:<{_WIDTH}}", fg=_COLOURS[finding.status])
    click.echo(f"{status}{escaped(about)}: {escaped(finding.text)}")
    if finding.mend:
        click.echo(f"{'':<{_WIDTH}}→ {escaped(finding.mend)}")


def _summary(findings: Sequence[Finding]) -> str:
    counts = [(status, sum(each.status is status for each in findings)) for status in _ORDER]
    words = {FindingStatus.PROBLEM: "problem", FindingStatus.WARNING: "warning"}
    parts = [
        f"{count} {words[status]}{'' if count == 1 else 's'}" if status in words else f"{count} {status}"
        for status, count in counts
    ]
    return ", ".join(parts)
