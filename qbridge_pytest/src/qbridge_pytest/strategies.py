"""Hypothesis: what may be sent to a task, and a machine that sends, kills, repeats and waits in any order.

Needs the package ``hypothesis``, which the plugin does without.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar, Final

from hypothesis import reject
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from qbridge_core import App, AppTask, ConfigurationError, PayloadError, TaskMessage
from qbridge_pytest import points
from qbridge_pytest.kit import Kit

_SCALARS: Final = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
)
_JSON: Final = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)
_DEATHS: Final = (points.RECEIVED, points.START, points.PUBLISH, points.DONE, points.SETTLED)
_PAUSES: Final = (1.0, 60.0, 3_600.0, 86_400.0)


def arguments(task: AppTask[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Arguments for a task, by its annotations; those with a default may be missing.

    They come from ``hypothesis.strategies.from_type``; a parameter without annotation, or with ``Any``, gets what JSON
    can say. For types that Hypothesis does not know, ``register_type_strategy`` is there.

    Raises:
        ConfigurationError: it is no task of an app.
    """
    if not isinstance(task, AppTask):
        raise ConfigurationError(f"arguments and messages take a task of an app, not a {type(task).__name__}")
    function: Callable[..., object] = task.function
    hints = typing.get_type_hints(function, include_extras=True)
    needed: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for name in task.signature.codecs:
        given = _of_type(hints.get(name, Any))
        is_needed = inspect.signature(function).parameters[name].default is inspect.Parameter.empty
        (needed if is_needed else optional)[name] = given
    return st.fixed_dictionaries(needed, optional=optional)


@st.composite
def messages(draw: st.DrawFn, task: AppTask[Any]) -> TaskMessage:
    """Messages for a task with such arguments, as ``app.send_many`` takes them; those that cannot be sent are left out.

    Raises:
        ConfigurationError: it is no task of an app.
    """
    given = draw(arguments(task))
    try:
        return task.message(**given)
    except PayloadError:
        reject()


class TaskMachine(RuleBasedStateMachine):
    """Sends messages to the tasks of an app, has workers die and acknowledgements get lost, lets time pass, and works.

    A subclass names the app and says in ``check`` what must hold whenever nothing is left to do. What Hypothesis runs
    is ``TheSubclass.TestCase``.

    Attributes:
        app: the app; it is opened for each example.
        tasks: those that get messages; all when missing.
        deaths: the points at which workers die; see docs/testing.md.
        expects_letters: whether tasks may end as dead letters.
        qbridge: the broker of the example.
    """

    app: ClassVar[App]
    tasks: ClassVar[Sequence[AppTask[Any]]] = ()
    deaths: ClassVar[Sequence[str]] = _DEATHS
    expects_letters: ClassVar[bool] = False

    def __init__(self) -> None:
        super().__init__()
        if not isinstance(getattr(self, "app", None), App):
            raise ConfigurationError(f"{type(self).__name__} needs the app that it is for: app = shop.tasks.app")
        if not (self.tasks or self.app.tasks):
            raise ConfigurationError(f"the app of {type(self).__name__} has no task; is their module imported?")
        for death in self.deaths:
            points.named(death)
        self._has_failed = False
        self.qbridge = Kit()
        with ExitStack() as failing:
            failing.enter_context(self.qbridge)
            self.qbridge.open(self.app)
            self.begin()
            failing.pop_all()  # `teardown` ends it

    def begin(self) -> None:
        """Make the world new in which the tasks work; called before each example."""

    def check(self) -> None:
        """Assert what must hold when all is done; ``self.qbridge`` tells what was sent."""

    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        """A message comes."""
        task = data.draw(st.sampled_from([*(self.tasks or self.app.tasks)]), label="task")
        self.app.send_many([data.draw(messages(task), label="message")])

    @precondition(lambda self: bool(self.deaths))
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """A worker is to die."""
        self.qbridge.crash(after=data.draw(st.sampled_from([*self.deaths]), label="after"))

    @rule()
    def lose_ack(self) -> None:
        """An acknowledgement gets lost."""
        self.qbridge.deliver_twice()

    @rule(seconds=st.sampled_from(_PAUSES))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.qbridge.advance(seconds)

    @rule()
    def work(self) -> None:
        """All is done."""
        self._has_failed = True
        self.qbridge.run()
        if self.expects_letters:
            self.qbridge.allow_letters()
        self.qbridge.check_letters()
        self.check()
        self._has_failed = False

    def teardown(self) -> None:
        """Do what is left, and look once more; not after a failure, which another would hide."""
        try:
            if not self._has_failed:
                self.work()
        finally:
            self.qbridge.__exit__(None, None, None)


def _of_type(annotation: Any) -> st.SearchStrategy[Any]:
    if annotation is Any:
        return _JSON
    if annotation is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    found: st.SearchStrategy[Any] = st.from_type(annotation)
    return found
