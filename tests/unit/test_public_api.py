"""The public names, and what importing them brings in."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

import QBridge.rabbitmq_client
import QBridge.task_manager
import qbridge_core
import qbridge_core.backend
import qbridge_core.testing
import qbridge_memory
from support.pages import ROOT

CORE = [
    "App",
    "AppTask",
    "AsyncQueueClient",
    "Attempt",
    "AttemptOutcome",
    "AuthenticationError",
    "BackendLoadError",
    "BackendNotInstalledError",
    "Backoff",
    "BrokerBlockedError",
    "BrokerUnavailableError",
    "Capabilities",
    "CeleryFormat",
    "CloudEventsFormat",
    "ConfigurationError",
    "ConstantBackoff",
    "DeadLetter",
    "DelayedMessage",
    "Delivery",
    "DeliveryLostError",
    "DramatiqFormat",
    "DuplicateBackendError",
    "EnvelopeFormat",
    "ExceptionRule",
    "ExponentialBackoff",
    "Failure",
    "Finding",
    "FindingStatus",
    "Format",
    "HandlerTimeout",
    "Health",
    "IdleTimeoutError",
    "InvalidURLError",
    "JSONFormat",
    "LettersGoneError",
    "LinearBackoff",
    "MalformedTaskError",
    "Message",
    "MessageTooLargeError",
    "NotConnectedError",
    "Outcome",
    "Outgoing",
    "PayloadError",
    "PermanentError",
    "PublishUnconfirmedError",
    "QBridgeError",
    "QueueClient",
    "QueueFullError",
    "QueueMismatchError",
    "QueuePausedError",
    "QueueStats",
    "QueueUse",
    "RawFormat",
    "Reason",
    "Reject",
    "RemoteError",
    "Retry",
    "RetryPolicy",
    "RunReport",
    "Snooze",
    "Supervisor",
    "Task",
    "TaskContext",
    "TaskControl",
    "TaskManager",
    "TaskMessage",
    "TooManyStuckTasksError",
    "TransientError",
    "UnknownOptionError",
    "UnknownSchemeError",
    "UnroutableError",
    "UnsupportedError",
    "UnsupportedTaskError",
    "WorkerStartError",
    "__version__",
    "aconnect",
    "backends",
    "connect",
    "current_task",
    "default_dead_letter_queue",
    "hookimpl",
    "register_backend",
    "run_workers",
    "use_plugins",
]


def test_the_public_names_of_the_core() -> None:
    """A name is added to or taken from the public surface on purpose only."""
    assert qbridge_core.__all__ == CORE


AUTHORS_AT_OLD_PLACES = [
    "BackendFactory",
    "BrokerURL",
    "check_body",
    "check_count",
    "check_declaration",
    "check_delay",
    "check_headers",
    "check_message_id",
    "check_publish_timeout",
    "check_queue_name",
    "check_wait",
    "merge_options",
    "option_count",
    "option_seconds",
    "rejection",
    "worker_identity",
]


@pytest.mark.parametrize("name", AUTHORS_AT_OLD_PLACES)
def test_what_backends_had_from_the_core_stays_there(name: str) -> None:
    """A backend written before ``qbridge_core.backend`` finds its names in the core, and they are the same things."""
    assert getattr(qbridge_core, name) is getattr(qbridge_core.backend, name)


def test_a_backend_needs_nothing_else_of_the_core() -> None:
    """The smallest backend, and one with leases and a broker of its own, import ``qbridge_core.backend`` alone."""
    support = ROOT / "tests/support"
    files = [support / "lists.py", *(support / "leases").glob("*.py")]
    found = [
        re.findall(r"(?:from|import) (qbridge_\S+|QBridge\S*)", file.read_text(encoding="utf-8")) for file in files
    ]
    assert {name for names in found for name in names} == {"qbridge_core.backend"}


def test_the_public_names_of_the_other_packages() -> None:
    """The memory backend, the suite and the aliases have these names and no others."""
    assert qbridge_memory.__all__ == ["MemoryClient", "reset"]
    assert qbridge_core.testing.__all__ == ["BackendConformance", "FaultConformance", "FaultyBroker", "eventually"]
    assert QBridge.task_manager.__all__ == ["TaskManager"]
    assert QBridge.rabbitmq_client.__all__ == ["RabbitMQClient"]


@pytest.mark.parametrize(
    "module", [qbridge_core, qbridge_core.backend, qbridge_memory, qbridge_core.testing, QBridge.task_manager]
)
def test_public_names_are_sorted_and_exist(module: object) -> None:
    """``from package import *`` works, and the list is easy to read."""
    names: list[str] = module.__all__  # type: ignore[attr-defined]
    assert names == sorted(names)
    assert all(hasattr(module, name) for name in names)


def test_every_public_name_has_a_docstring() -> None:
    """What users see is described."""
    undocumented = [
        name
        for name in CORE
        if isinstance(getattr(qbridge_core, name), type) and not getattr(qbridge_core, name).__doc__
    ]
    assert undocumented == []


@pytest.mark.parametrize("statement", ["import qbridge_core", "from QBridge.task_manager import TaskManager"])
def test_the_core_brings_in_no_driver_backend_or_test_runner(statement: str) -> None:
    """Importing the core leaves everything optional out of the process."""
    code = f"""
import sys
{statement}
optional = ("pytest", "pika", "redis", "kombu", "opentelemetry", "qbridge_core.testing")
optional += ("qbridge_memory", "qbridge_redis", "qbridge_rabbitmq", "qbridge_kombu")
print(sorted(set(optional) & set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("statement", "unwanted"),
    [
        (
            "import qbridge_core",
            {
                "ctypes",
                "difflib",
                "hashlib",
                "pathlib",
                "shlex",
                "socket",
                "urllib.parse",
                "qbridge_core.backend",
                "qbridge_core.contract.dead_letter",
                "qbridge_core.contract.delayed",
                "qbridge_core.contract.findings",
                "qbridge_core.contract.history",
                "qbridge_core.task.retry",
                "qbridge_core.telemetry",
                "qbridge_core.work",
                "qbridge_core.execute",
            },
        ),
        (
            "import qbridge_core.backend",
            {"ctypes", "hashlib", "pathlib", "socket", "qbridge_core.work", "qbridge_core.execute"},
        ),
        ("from qbridge_core import TaskManager", {"qbridge_core.execute.coroutines", "qbridge_core.supervise"}),
    ],
)
def test_an_import_loads_nothing_that_is_not_needed_yet(statement: str, unwanted: set[str]) -> None:
    """An event loop, TLS, mail, metadata of packages and processes cost most of an import, and most never need them."""
    always = {"asyncio", "concurrent", "email", "importlib.metadata", "multiprocessing", "ssl", "subprocess", "zipfile"}
    code = f"""
import sys
before = set(sys.modules)
{statement}
print(sorted(set({sorted(always | unwanted)!r}) & (set(sys.modules) - before)))
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_worker_has_loaded_what_a_failure_needs() -> None:
    """Nothing is imported when a task fails: without a free descriptor its message could not be settled then."""
    code = """
import sys
from qbridge_core import TaskManager
needed = {"contract.dead_letter", "contract.history", "task.outcome", "task.retry", "work.settle.failures"}
print(sorted({f"qbridge_core.{name}" for name in needed} - set(sys.modules)))
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_worker_holds_nothing_that_only_a_supervisor_needs() -> None:
    """`Supervisor` is imported when it is asked for: its modules are memory of each worker process otherwise."""
    code = """
import sys, qbridge_core
print(sorted({"multiprocessing", "pickle", "runpy"} & set(sys.modules)))
print("Supervisor" in dir(qbridge_core), qbridge_core.Supervisor.__name__, "multiprocessing" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split("\n")[:2] == ["[]", "True Supervisor True"]


def test_the_abstract_methods_are_the_contract() -> None:
    """A backend implements eight methods and ``connected``; more would break every backend there is."""
    assert qbridge_core.QueueClient.__abstractmethods__ == {
        "ack",
        "connect",
        "connected",
        "declare",
        "disconnect",
        "publish",
        "receive",
        "reject",
        "stats",
    }
