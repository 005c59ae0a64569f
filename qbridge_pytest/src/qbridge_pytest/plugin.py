"""What pytest loads with each run, so it is little: the fixture, and what judges its letters."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from qbridge_pytest.kit import Kit

_APP: Final = "qbridge_app"
_kits: Final = pytest.StashKey["Kit"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting of the ini file."""
    parser.addini(_APP, "the App that the fixture qbridge opens, as in shop.tasks:app", default="")


@pytest.fixture
def qbridge(request: pytest.FixtureRequest) -> Iterator[Kit]:
    """A broker of the test's own, in virtual time: qbridge.run() works everything off; see docs/testing.md."""
    from qbridge_pytest.kit import Kit
    from qbridge_pytest.loading import load_app

    with Kit() as kit:
        if target := request.config.getini(_APP):
            kit.open(load_app(target))
        request.node.stash[_kits] = kit
        yield kit


def _check_letters(kit: Kit) -> None:
    if text := kit.unexpected_letters():
        pytest.fail(text, pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Have a test fail for dead letters that it has not expected; tell of a failed one what became of its messages."""
    try:
        result = yield
        if (kit := item.stash.get(_kits, None)) is not None:
            _check_letters(kit)
    except BaseException:
        if (kit := item.stash.get(_kits, None)) is not None and (story := kit.story()):
            item.add_report_section("call", "qbridge", story)
        raise
    return result
