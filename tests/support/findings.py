"""Findings of a diagnosis, for tests that cause them."""

from __future__ import annotations

from collections.abc import Sequence

from qbridge_core import Finding, FindingStatus

BAD = (FindingStatus.WARNING, FindingStatus.PROBLEM)


def bad(findings: Sequence[Finding]) -> list[Finding]:
    """Those that say that something is wrong."""
    return [each for each in findings if each.status in BAD]


def unchecked(findings: Sequence[Finding]) -> set[str]:
    """The names of the checks that were not made."""
    return {each.check for each in findings if each.status is FindingStatus.NOT_CHECKED}


def only(findings: Sequence[Finding], check: str, status: FindingStatus, *words: str) -> Finding:
    """The only thing that is wrong; it is of this kind, and says so with these words."""
    (found,) = bad(findings)
    assert (found.check, found.status) == (check, status), found
    for word in words:
        assert word in found.text, found
    return found
