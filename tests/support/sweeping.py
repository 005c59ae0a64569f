"""Deletes the queues of tests that are over: RabbitMQ looks after each queue now and then, whether it is used or not.

Two thousand, which a whole run would leave, take a tenth of a processor.
"""

from __future__ import annotations

from typing import Final

import pytest

from support.brokers import BrokerError, RabbitMQBroker

NAME: Final = "qbridge-test-"
"""How the names of queues begin that are one test's."""
_PROPERTY: Final = "queues"
_AT_ONCE: Final = 50


def note_queues(item: pytest.Item) -> None:
    """Have the report of a test say with what the names of its queues begin."""
    values = getattr(item, "funcargs", {}).values()
    names = {value for value in values if isinstance(value, str) and value.startswith(NAME)}
    item.user_properties.extend((_PROPERTY, name) for name in names)


class Sweeper:
    """A plugin of the process that has all reports, and has started the node."""

    def __init__(self, broker: RabbitMQBroker) -> None:
        self._broker = broker
        self._names = set[str]()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Delete the queues of some tests at once."""
        if report.when == "teardown":
            self._names.update(str(name) for key, name in report.user_properties if key == _PROPERTY)
        if len(self._names) >= _AT_ONCE:
            names = sorted(self._names)
            self._names.clear()
            try:
                self._broker.delete_queues(*names, wait=False)
            except BrokerError:
                return  # what is left costs time, and is no fault of a test
