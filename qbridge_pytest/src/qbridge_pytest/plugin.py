"""What pytest loads with each run, so it is little: the fixture, and what judges its letters."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Final

import pytest

if TYPE_CHECKING:
    from qbridge_pytest.kit import Kit
    from qbridge_pytest.points import Point

_MARK: Final = "qbridge"
_POINT: Final = "qbridge_crash_point"
_APP: Final = "qbridge_app"
_kits: Final = pytest.StashKey["Kit"]()
_passed: Final = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the setting of the ini file."""
    parser.addini(_APP, "the App that the fixture qbridge opens, as in shop.tasks:app", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Describe the marker."""
    config.addinivalue_line(
        "markers",
        f'{_MARK}(crash_points="all", handler=None): run the test once for each point at which a worker can die',
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of each crash point."""
    mark = metafunc.definition.get_closest_marker(_MARK)
    if mark is not None:
        from qbridge_pytest.marking import points_of

        found = points_of(mark, metafunc)
        if _POINT not in metafunc.fixturenames:  # pytest 8 overlooks what a fixture asks for that is overridden
            metafunc.fixturenames.append(_POINT)
        metafunc.parametrize(_POINT, found, ids=[_id(each) for each in found], indirect=True)


def _id(point: Point | None) -> str:
    return "no-crash" if point is None else point.id


@pytest.fixture
def qbridge_crash_point(request: pytest.FixtureRequest) -> Point | None:
    """Where the worker dies in this test, which the marker ``qbridge`` says; None for nowhere."""
    if not hasattr(request, "param") and request.node.get_closest_marker(_MARK) is not None:
        pytest.fail(
            f"the marker {_MARK} makes a test of each crash point, which cannot be done with this one: pytest does not "
            "parametrize the methods of a unittest.TestCase; write it as a function, or in a class of its own",
            pytrace=False,
        )
    found: Point | None = getattr(request, "param", None)
    return found


@pytest.fixture
def qbridge(request: pytest.FixtureRequest, qbridge_crash_point: Point | None) -> Iterator[Kit]:
    """A broker of the test's own, in virtual time: qbridge.run() works everything off; see docs/testing.md."""
    from qbridge_pytest.kit import Kit
    from qbridge_pytest.loading import load_app

    with Kit() as kit:
        if target := request.config.getini(_APP):
            kit.open(load_app(target))
        if qbridge_crash_point is not None:
            kit._die_at(qbridge_crash_point)
        request.node.stash[_kits] = kit
        request.node.stash[_passed] = False
        yield kit
        if request.node.stash[_passed]:  # fixtures that use this one may have worked on since
            _check_letters(kit)


def _check_letters(kit: Kit) -> None:
    if text := kit.unexpected_letters():
        pytest.fail(text, pytrace=False)


def _check_crash(kit: Kit) -> None:
    """A test that did not come to its crash point has proven nothing there; one that has asked for it is wrong."""
    if text := kit._missing_faults():
        pytest.fail(text, pytrace=False)
    if text := kit._crash_to_come():
        pytest.skip(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Have a test fail for dead letters that it has not expected, and for faults that did not happen."""
    result = yield
    if (kit := item.stash.get(_kits, None)) is not None:
        _check_letters(kit)
        item.stash[_passed] = True
        _check_crash(kit)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell of a test that has failed what became of its messages."""
    report = yield
    if report.failed and (kit := item.stash.get(_kits, None)) is not None and (story := kit.story()):
        report.sections.append((f"Captured qbridge {report.when}", story))
    return report
