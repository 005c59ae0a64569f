"""The page of guarantees: every number is there, and every test that it names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text(encoding="utf-8")
SUITE = ROOT / "qbridge_core" / "src" / "qbridge_core" / "testing"
TESTS = {
    name
    for folder in (ROOT / "tests", SUITE)
    for path in folder.rglob("*.py")
    for name in re.findall(r"^\s*(?:async )?def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
}
NUMBERS = range(1, 21)


def test_every_test_that_the_page_names_exists() -> None:
    """A renamed or deleted test leaves no claim behind."""
    named = set(re.findall(r"`(test_\w+)`", PAGE))
    assert len(named) > 50
    assert named <= TESTS, sorted(named - TESTS)


@pytest.mark.parametrize("number", NUMBERS)
def test_every_guarantee_has_a_test_with_its_number(number: int) -> None:
    """Also one that its paragraph names."""
    mark = re.compile(rf"_g{number}_")
    assert any(mark.search(name) for name in TESTS)
    paragraph = re.search(rf"^\*\*G{number}\b.*?(?=^\*\*G\d|^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert paragraph is not None
    assert any(mark.search(name) for name in re.findall(r"`(test_\w+)`", paragraph[0]))


@pytest.mark.parametrize("number", NUMBERS)
def test_every_guarantee_is_in_the_overview(number: int) -> None:
    """The table says in a line what holds."""
    assert re.search(rf"^\| \[G{number}\]\(#\w[\w-]*\) \| \S.* \| \S.* \|$", PAGE, re.MULTILINE)
