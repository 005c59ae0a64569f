"""Hypothesis and the fixture ``qbridge``: messages for tasks, and a machine that works, kills and repeats."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test
from pydantic import BaseModel, Field

from qbridge_core import App, ConfigurationError, TaskContext
from qbridge_pytest import Kit
from qbridge_pytest.strategies import TaskMachine, arguments, messages

FEW = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), database=None)


class Order(BaseModel):
    """What is paid."""

    number: Annotated[int, Field(gt=0)]
    lines: list[str]


app = App()
charged: Counter[int] = Counter()


@app.task(name="charge-each-time", queue="charges")
def charge_each_time(order: int) -> None:
    """Charge whatever was before."""
    charged[order] += 1


once = App()


@once.task(name="charge-once", queue="charges")
def charge_once(order: int) -> None:
    """Charge under a key."""
    charged[order] = 1


typed = App()


@typed.task(name="typed", queue="typed")
def take(task: TaskContext, order: Order, ratio: float, anything: Any, note: str = "") -> None:
    """Take what fits."""
    assert order.number > 0


class ChargesOnce(TaskMachine):
    """No order is charged twice."""

    app = once

    def begin(self) -> None:
        """Nobody has paid."""
        charged.clear()

    def check(self) -> None:
        """Each has paid once."""
        assert set(charged.values()) <= {1}


class ChargesTwice(ChargesOnce):
    """The same of a task that is not idempotent."""

    app = app


@FEW
@given(st.data())
def test_messages_fit_their_task(data: st.DataObject) -> None:
    """Whatever its annotations are: models with limits, what has a default, what JSON says."""
    with Kit() as qbridge:
        qbridge.open(typed)
        keys = data.draw(arguments(take)).keys()
        assert {"order", "ratio", "anything"} <= keys <= {"order", "ratio", "anything", "note"}
        typed.send_many([data.draw(messages(take)) for _ in range(3)])
        assert qbridge.run().succeeded == 3


def test_a_task_that_is_idempotent_passes() -> None:
    """Whatever dies, is lost or comes twice."""
    run_state_machine_as_test(ChargesOnce, settings=FEW)


def test_a_task_that_is_not_idempotent_is_found() -> None:
    """With the steps that show it."""
    with pytest.raises(AssertionError) as caught:
        run_state_machine_as_test(ChargesTwice, settings=settings(FEW, max_examples=100))
    assert "state.send(" in "".join(getattr(caught.value, "__notes__", []))


def test_what_is_no_task_is_refused() -> None:
    """With what is wanted."""
    with pytest.raises(ConfigurationError, match="take a task of an app, not a builtin"):
        arguments(len)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="needs the app that it is for"):
        TaskMachine()


def test_a_machine_that_cannot_begin_leaves_its_app_as_it_was() -> None:
    """So that the next test has it; and a wrong machine is told what is right before anything is sent."""

    class BadBegin(ChargesOnce):
        def begin(self) -> None:
            raise ZeroDivisionError

    class BadDeath(ChargesOnce):
        deaths = ("don",)

    class NoTasks(TaskMachine):
        app = App()

    with pytest.raises(ZeroDivisionError):
        BadBegin()
    with Kit() as qbridge:
        qbridge.open(once)
    with pytest.raises(ConfigurationError, match="which broker"):
        once.send_many([charge_once.message(order=1)])
    with pytest.raises(ConfigurationError, match="no crash point 'don'"):
        BadDeath()
    with pytest.raises(ConfigurationError, match="has no task"):
        NoTasks()


def test_what_failed_first_is_what_a_machine_fails_with() -> None:
    """It does not work once more on the way out."""

    class Failing(ChargesOnce):
        looks = 0

        def check(self) -> None:
            self.looks += 1
            raise AssertionError("wrong")

    machine = Failing()
    with pytest.raises(AssertionError, match="wrong"):
        machine.work()
    machine.teardown()
    assert machine.looks == 1
