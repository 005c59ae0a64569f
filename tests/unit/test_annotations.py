"""Functions whose annotations name what only type checkers import: only a task needs to know what they mean."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from qbridge_core import App, ConfigurationError, TaskManager
from qbridge_core.cli.targets import takes_payload
from qbridge_memory import MemoryClient

# Without quotes, where Python allows it: there an annotation is run when it is looked at (PEP 649).
SOURCE = (
    ("" if sys.version_info >= (3, 14) else "from __future__ import annotations\n")
    + """
import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from shop import Mail, TaskContext

seen = []

def handler(payload: Mail, task: TaskContext) -> Mail:
    seen.append((payload, task.state))

@contextlib.contextmanager
def lifespan() -> Mail:
    yield "open"

def build() -> Mail: ...
"""
)


@pytest.fixture
def module() -> dict[str, Any]:
    """What the source defines."""
    names: dict[str, Any] = {}
    exec(SOURCE, names)
    return names


def test_a_handler_and_a_lifespan_may_name_what_only_type_checkers_know(
    client: MemoryClient, module: dict[str, Any]
) -> None:
    """Whether they take a context is seen without a look at what their annotations mean."""
    client.send("q", "5")
    manager = TaskManager(client, module["handler"], "q", "d", max_workers=1, lifespan=module["lifespan"])
    assert manager.run_until_idle(10.0).succeeded == 1
    assert module["seen"] == [("5", "open")]


@pytest.mark.parametrize(("name", "is_handler"), [("handler", True), ("build", False)])
def test_the_command_line_tells_a_handler_from_what_builds_a_manager(
    module: dict[str, Any], name: str, is_handler: bool
) -> None:
    """By their parameters alone."""
    assert takes_payload(module[name]) is is_handler


def test_a_task_is_told_that_its_annotations_cannot_be_read(module: dict[str, Any]) -> None:
    """They decide how a payload is read."""
    with pytest.raises(ConfigurationError, match="t: an annotation names 'Mail', which is not there yet, or only for"):
        App().task(name="t")(module["build"])
