"""What it means for tasks that a queue was declared by somebody else, with other arguments than QBridge's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_DIFFERENCE: Final = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for queue .*: received .* but current is "
    r"(?:none|(?P<none>undefined)|'(?P<flag>true|false)'|the value '(?P<value>.*)' of type '(?P<type>\w+)'"
    r"|'(?P<route>.*)')"  # of x-dead-letter-exchange and x-dead-letter-routing-key
)
_FLAGS: Final = ("durable", "auto_delete")
_SHOWN: Final = 200
_ROUTE: Final = "what the broker itself takes out of it goes there, and not to this program's dead-letter queue"
_CONSEQUENCES: Final[Mapping[tuple[str, str], str]] = {
    ("durable", "False"): "its messages are lost when the broker restarts",
    ("auto_delete", "True"): "it is deleted, with its messages, when its last consumer goes",
    ("x-dead-letter-exchange", "None"): "what the broker itself takes out of it is lost",
    ("x-dead-letter-exchange", ""): _ROUTE,
    ("x-dead-letter-routing-key", ""): _ROUTE,
    ("x-dead-letter-strategy", "None"): "what the broker itself takes out of it may be lost on its way",
    ("x-queue-type", "classic"): "it is on one node only, and away for as long as that is",
    ("x-single-active-consumer", "True"): "one worker at a time gets tasks",
    ("x-message-ttl", ""): "a task that waits longer, in ms, is taken out without having run",
    ("x-expires", ""): "unused for so many ms it is deleted with its messages",
    ("x-max-length", ""): "over so many messages the oldest are dropped, unless x-overflow is reject-publish",
    ("x-max-length-bytes", ""): "over so many bytes the oldest are dropped, unless x-overflow is reject-publish",
    ("x-delivery-limit", ""): "a message that comes back more often is taken out, even if it does no harm",
}


def difference(text: str) -> tuple[str, Any] | None:
    """Which argument a declaration was refused for, and its value there; None is none. No pair: it says nothing."""
    found = _DIFFERENCE.search(text)
    if found is None:
        return None
    if found["flag"]:
        return found["name"], found["flag"] == "true"
    if found["route"] is not None:
        return found["name"], found["route"]
    if found["value"] is None:
        return found["name"], None
    value = found["value"]
    if found["type"] == "bool":
        return found["name"], value == "true"
    return found["name"], int(value) if value.lstrip("-").isdigit() and found["type"] != "longstr" else value


def flags(found: Mapping[str, Any]) -> dict[str, bool]:
    """Those of the differences that are no arguments of the queue."""
    return {name: bool(found[name]) for name in _FLAGS if name in found}


def arguments(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """The wanted arguments, with the differences that were found."""
    merged = {**wanted, **{name: value for name, value in found.items() if name not in _FLAGS}}
    return {name: value for name, value in merged.items() if value is not None}


def describe(found: Mapping[str, Any]) -> str:
    """The differences, each with what it means; those that are missing and mean nothing are left out."""
    parts = [_describe(name, value) for name, value in found.items()]
    return "; ".join(part for part in parts if part) or "it has other arguments"


def consequence(name: str, value: Any) -> str:
    """What one difference means; "" when it means nothing to tasks."""
    known = _CONSEQUENCES.get((name, str(value)), "")
    return known or ("" if value is None else _CONSEQUENCES.get((name, ""), ""))


def _describe(name: str, value: Any) -> str:
    known = _CONSEQUENCES.get((name, str(value)))
    if value is None:
        return f"{name} is not set ({known})" if known else ""
    known = known or _CONSEQUENCES.get((name, ""))
    return f"{name} is {str(value)[:_SHOWN]}" + (f" ({known})" if known else "")
