"""Runs the conformance suite on clients of the tests, by a pytest inside the one that runs.

Starting a process for each client would take most of the time, and starting a pytest for each a third of it, so several
clients share one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest

from qbridge_core import QueueClient
from qbridge_core.testing import BackendConformance, FaultConformance

WITH_ONE_KIND: Final = {
    "test_g1_without_a_broker_each_call_ends_with_a_typed_error": "away",
    "test_an_instant_ack_waits_for_no_broker": "silent",
    "test_g2_whenever_a_client_dies_its_message_is_somewhere": "retry",
    "test_g1_publishing_soon_never_waits": "silent",
    "test_g1_what_publish_many_confirmed_is_there_whatever_happens_to_the_connection": "half",
}
"""Of those that run for several kinds of faults, one is enough to find a client: this, or what the client says."""
_PATH: Final = [str(Path(__file__).parents[1])]
_HEAD = """
import sys
sys.path[:] = {path!r} + [entry for entry in sys.path if entry not in {path!r}]

import pytest

from qbridge_core import connect, register_backend
from qbridge_core.testing import BackendConformance, FaultConformance
from support.brokers import start_new
from support.leases.broker import LeaseBroker


def all_but(chosen, suite):
    # Hides the other tests, if some are chosen: to collect and deselect them takes longer than to run these.
    return {{name: None for name in dir(suite) if name.startswith("test") and chosen and name not in chosen}}
"""
_CLIENT = """
from {module} import {client}

register_backend({under!r}, lambda url, options: {client}({scheme!r} + url.removeprefix({under!r}), **options))


class Test{number}_(BackendConformance):
    locals().update(all_but({tests!r}, BackendConformance))
    url = {url!r}
    options = {options!r}
    outage_options = {outage_options!r}
    wait = {wait!r}
    counting_timeout = wait
    redelivery_timeout = 2 * wait
    outage_timeout = 4.0
"""
_FAULTS = """
class TestFaults{number}_(FaultConformance):
    locals().update(all_but({tests!r}, FaultConformance))
    options = {options!r}
    wait = {wait!r}
    recovery_timeout = wait

    @pytest.fixture
    def faulty_broker(self, tmp_path):
        broker = start_new(getattr({client}, "broker", LeaseBroker), tmp_path / "leases")
        yield broker
        broker.close()

    @pytest.fixture
    def broker_url(self, faulty_broker):
        return {under!r} + faulty_broker.url.removeprefix("lease")
"""


@dataclass
class Outcome:
    """What became of the tests of one client, by their names, and what those said that failed."""

    passed: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    texts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All that they said."""
        return "\n\n".join(self.texts)


class Outcomes:
    """A plugin that notes what became of each test, for some clients."""

    def __init__(self, count: int) -> None:
        self.of_clients = [Outcome() for _ in range(count)]

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a phase of a test."""
        _, kind, test = report.nodeid.split("::", 2)
        outcome = self.of_clients[int("".join(filter(str.isdigit, kind)))]
        name = test.partition("[")[0]
        if report.failed:
            outcome.failed.add(name)
            outcome.texts.append(f"{name}: {report.longreprtext}")
        elif report.when == "call" and report.passed:
            outcome.passed.add(name)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note an error in the module."""
        for outcome in self.of_clients if report.failed else ():
            outcome.texts.append(report.longreprtext)


def run_suites(
    directory: Path,
    wanted: Mapping[type[QueueClient], Collection[str]],
    *,
    url: str = "memory://conformance",
    wait: float = 10.0,
    finalizers: bool = True,
) -> list[Outcome]:
    """Run some tests of the suite on each of several clients, or all where none is named; in the order of the clients.

    What finalizers raise counts, too, unless ``finalizers`` is false: the search for garbage takes a while.
    """
    file = directory / f"test_{next(iter(wanted)).__name__.lower()}.py"
    parts = [_part(number, client, tests, url, wait) for number, (client, tests) in enumerate(wanted.items())]
    file.write_text("\n".join([_HEAD.format(path=_PATH), *parts]), encoding="utf-8")
    chosen = " or ".join(_chosen(number, client, tests) for number, (client, tests) in enumerate(wanted.items()))
    outcomes = Outcomes(len(wanted))
    arguments = ["-c", os.devnull, f"--rootdir={directory}", "--import-mode=importlib", "-q", "--tb=native"]
    plugins = ["no:cacheprovider", "no:faulthandler", "no:xdist", "no:timeout"]
    plugins += [] if finalizers else ["no:unraisableexception"]
    quiet = ["--no-summary", *(part for plugin in plugins for part in ("-p", plugin))]
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        patch.setenv("PYTEST_ADDOPTS", "")
        pytest.main([*arguments, *quiet, "-k", chosen, "-W", "error", str(file)], plugins=[outcomes])
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) == str(file):
            del sys.modules[name]
    return outcomes.of_clients


def run_suite(
    directory: Path,
    client: type[QueueClient],
    tests: Collection[str] = (),
    *,
    url: str = "memory://conformance",
    wait: float = 10.0,
) -> tuple[set[str], set[str], str]:
    """The same with one client; return the names that passed and failed, and what was said."""
    (outcome,) = run_suites(directory, {client: tests}, url=url, wait=wait)
    return outcome.passed, outcome.failed, outcome.text


def _part(number: int, client: type[QueueClient], tests: Collection[str], url: str, wait: float) -> str:
    """The classes of a module that run these tests on a client."""
    scheme, _, rest = url.partition("://")
    leased, under = scheme == "lease", f"under-test-{number}"
    runs_faults = not tests or any(hasattr(FaultConformance, test) for test in tests)
    assert all(hasattr(BackendConformance, test) or hasattr(FaultConformance, test) for test in tests), tests
    return (_CLIENT + (_FAULTS if runs_faults else "")).format(
        number=number,
        module=client.__module__,
        client=client.__name__,
        scheme=scheme,
        under=under,
        url=f"{under}://{rest}",
        options={"lease": 1.0} if leased else {},
        outage_options={"timeout": 1.0} if leased else {},
        wait=wait,
        tests=sorted(tests),
    )


def _chosen(number: int, client: type[QueueClient], tests: Collection[str]) -> str:
    """What ``-k`` says of a client's tests."""
    if not tests:
        return f"Test{number}_"
    kinds = {test: getattr(client, "fault", kind) for test, kind in WITH_ONE_KIND.items()}
    names = " or ".join(f"({test} and {kinds.get(test, test)})" for test in sorted(tests))
    return f"((Test{number}_ or TestFaults{number}_) and ({names}))"
