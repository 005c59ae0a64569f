"""What docs/stability.md calls stable is there: names, headers, capability flags."""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from corpus.reader import VERSIONS
from qbridge_core import Capabilities, TaskManager, backend
from support.pages import DOCS

CORPUS = Path(__file__).parents[1] / "corpus"
PAGE = (DOCS / "stability.md").read_text(encoding="utf-8")
# What came after the last version of the corpus and is promised since.
BACKEND = [
    "ATTEMPTS",
    "Attempt",
    "AttemptOutcome",
    "AuthenticationError",
    "BESIDE",
    "BackendFactory",
    "BrokerBlockedError",
    "BrokerURL",
    "BrokerUnavailableError",
    "CRASHES",
    "Capabilities",
    "Check",
    "Chosen",
    "ConfigurationError",
    "DIAGNOSIS_SECONDS",
    "DUE_AT",
    "DeadLetter",
    "DeclaredQueues",
    "DelayedMessage",
    "Delivery",
    "DeliveryLostError",
    "EXCEPTION_MESSAGE",
    "EXCEPTION_TYPE",
    "Edit",
    "FIRST_FAILED_AT",
    "Failure",
    "Finding",
    "FindingStatus",
    "GrowingPause",
    "HEADER_PREFIX",
    "HISTORY",
    "InvalidURLError",
    "LAST_FAILED_AT",
    "LettersGoneError",
    "Look",
    "MAX_EXCEPTION_MESSAGE_CHARS",
    "MAX_HISTORY_BYTES",
    "MAX_ID_CHARS",
    "MAX_TRACEBACK_CHARS",
    "Mailbox",
    "Message",
    "MessageTooLargeError",
    "NO_HEADERS",
    "NotConnectedError",
    "Noted",
    "OptionReader",
    "Outage",
    "PREFETCH_BYTES",
    "PayloadError",
    "PermanentError",
    "PublishUnconfirmedError",
    "QBridgeError",
    "QueueClient",
    "QueueFullError",
    "QueueMismatchError",
    "QueueStats",
    "QueueUse",
    "QueuedLogger",
    "REASON",
    "REPLAYS",
    "Rates",
    "Reason",
    "SENT_AT",
    "SOURCE_QUEUE",
    "SUSPICIONS",
    "TASK_ID",
    "TRACEBACK",
    "TransientError",
    "UnknownOptionError",
    "UnroutableError",
    "UnsupportedError",
    "WORKER",
    "callers_own",
    "charged_history",
    "check_after",
    "check_body",
    "check_choice",
    "check_count",
    "check_declaration",
    "check_delay",
    "check_delayed",
    "check_delayed_id",
    "check_delivery",
    "check_headers",
    "check_imports",
    "check_letters",
    "check_message",
    "check_message_id",
    "check_messages",
    "check_publish_timeout",
    "check_queue_name",
    "check_queue_names",
    "check_rejection",
    "check_replay",
    "check_uses",
    "check_wait",
    "default_dead_letter_queue",
    "examine",
    "guarded",
    "hookimpl",
    "is_passing",
    "letter_headers",
    "list_queues",
    "logger",
    "merge_options",
    "meta_int",
    "meta_text",
    "meta_time",
    "monotonic",
    "option_count",
    "option_seconds",
    "plain_headers",
    "read_options",
    "rejection",
    "replay_headers",
    "suspects_queue",
    "worker_identity",
]
HEADERS = [
    "x-qbridge-attempts",
    "x-qbridge-beside",
    "x-qbridge-cc",
    "x-qbridge-copy",
    "x-qbridge-crashes",
    "x-qbridge-due-at-ms",
    "x-qbridge-exception-message",
    "x-qbridge-exception-type",
    "x-qbridge-expiration",
    "x-qbridge-first-failed-at-ms",
    "x-qbridge-history",
    "x-qbridge-last-failed-at-ms",
    "x-qbridge-left-out",
    "x-qbridge-reason",
    "x-qbridge-redelivered",
    "x-qbridge-replays",
    "x-qbridge-sent-at-ms",
    "x-qbridge-source-queue",
    "x-qbridge-suspected",
    "x-qbridge-suspicions",
    "x-qbridge-task-id",
    "x-qbridge-traceback",
    "x-qbridge-user-id",
    "x-qbridge-worker",
]
CAPABILITIES = [
    "delay",
    "max_delay",
    "browse",
    "crashes",
    "durable",
    "shared",
    "instant_ack",
    "redelivers",
    "ordered",
    "exact_stats",
    "letters",
    "diagnoses",
    "details",
    "queues",
    "sent_at",
    "history",
    "purge_delayed",
    "browse_delayed",
    "pause",
    "imports",
]


def names_of(version: str) -> dict[str, list[str]]:
    """The public names that a version had, by module."""
    names: dict[str, list[str]] = json.loads((CORPUS / version / "names.json").read_text())
    return names


@pytest.mark.parametrize("version", VERSIONS)
def test_the_public_names_of_each_version_are_there(version: str) -> None:
    """A program that was written for an older version finds what it imports, where it was."""
    gone = [
        f"{module}.{name}"
        for module, names in names_of(version).items()
        for name in names
        if not hasattr(importlib.import_module(module), name)
    ]
    assert gone == []


def test_the_names_for_backends_are_there() -> None:
    """A backend that was written for `qbridge_core.backend` finds what it imports."""
    assert [name for name in BACKEND if name not in backend.__all__] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_the_page_names_each_public_module(version: str) -> None:
    """What is frozen is promised on the page."""
    assert [module for module in names_of(version) if f"`{module}`" not in PAGE] == []


def test_the_page_names_each_header() -> None:
    """A new name on the wire is a promise, and belongs on the page."""
    assert [header for header in HEADERS if f"`{header}`" not in PAGE] == []
    sources = "".join(
        path.read_text(encoding="utf-8") for path in Path(__file__).parents[2].glob("qbridge_*/src/**/*.py")
    )
    written = {f"x-qbridge-{suffix}" for suffix in re.findall(r'HEADER_PREFIX \+ "([a-z-]+)"', sources)}
    assert written == set(HEADERS) | {"x-qbridge-header-", "x-qbridge-kombu-"}


def test_the_capability_flags_are_there() -> None:
    """A program that asks a client what it can do finds each flag, and the page has it."""
    known = [field.name for field in fields(Capabilities)]
    assert [flag for flag in CAPABILITIES if flag not in known or f"`{flag}`" not in PAGE] == []


def test_the_arguments_of_a_task_manager_are_positional_as_ever() -> None:
    """The first seven arguments can be given by position, in the order of the first version."""
    names = TaskManager.__init__.__code__.co_varnames[1:8]
    expected = ("queue_client", "handler", "input_queue", "dead_letter_queue", "max_retries", "task_timeout")
    assert names == (*expected, "max_workers")
