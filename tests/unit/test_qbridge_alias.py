"""The names under which QBridge was first announced."""

from __future__ import annotations

import subprocess
import sys

import pytest

import qbridge_core
from support.pages import install_line


def run(code: str) -> str:
    """Run code in a process of its own; return what it printed."""
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_the_task_manager_is_the_task_manager() -> None:
    """The alias is the class itself."""
    from QBridge.task_manager import TaskManager

    assert TaskManager is qbridge_core.TaskManager


BLOCKED = """
import sys
sys.modules[{module!r}] = None
try:
    from QBridge.rabbitmq_client import RabbitMQClient
except ImportError as exc:
    print(type(exc).__name__, exc, type(exc.__cause__).__name__, sep="|")
"""


@pytest.mark.parametrize("module", ["qbridge_rabbitmq", "pika"])
def test_a_missing_backend_has_its_install_line(module: str) -> None:
    """Without the distribution, or its driver, the import fails with what to type."""
    kind, text, cause = run(BLOCKED.format(module=module)).split("|")
    assert (kind, cause) == ("ImportError", "ModuleNotFoundError")
    assert f"run: {install_line('rabbitmq')} " in text


def test_another_missing_module_is_not_blamed_on_the_user() -> None:
    """A bug inside the backend is not reported as a backend that is missing."""
    code = """
import sys, types
from importlib.machinery import ModuleSpec
class Broken:
    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self) if name == "qbridge_rabbitmq" else None
    def create_module(self, spec):
        return None
    def exec_module(self, module):
        import no_such_module
sys.meta_path.insert(0, Broken())
try:
    from QBridge.rabbitmq_client import RabbitMQClient
except ModuleNotFoundError as exc:
    print(exc.name)
"""
    assert run(code) == "no_such_module"


def test_importing_the_module_imports_no_driver() -> None:
    """The backend is imported when its name is asked for."""
    assert run("import sys, QBridge.rabbitmq_client; print('qbridge_rabbitmq' in sys.modules)") == "False"


def test_another_name_does_not_exist() -> None:
    """A misspelled name is an AttributeError that names it."""
    import QBridge.rabbitmq_client as module

    with pytest.raises(AttributeError, match="RabbitClient"):
        module.RabbitClient  # noqa: B018
