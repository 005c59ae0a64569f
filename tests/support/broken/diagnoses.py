"""Broken clients of the memory backend: what they do when somebody looks for what is wrong."""
# ruff: noqa: D102 - what each method is for is in the contract

from __future__ import annotations

from dataclasses import replace
from typing import Any

from qbridge_core import Finding, FindingStatus, QueueClient, UnroutableError
from qbridge_memory import MemoryClient

CLAIMS = MemoryClient.capabilities


class ClaimsToLook(MemoryClient):
    """Claims to look at its broker, and cannot."""

    def diagnose(self, *args: Any, **kwargs: Any) -> list[Finding]:
        return QueueClient.diagnose(self, *args, **kwargs)


class HidesThatItLooks(MemoryClient):
    """Looks, and does not say that it can."""

    capabilities = replace(CLAIMS, diagnoses=False)


class CreatesToLook(MemoryClient):
    """Makes the queues that it is to look at."""

    def diagnose(self, queues: Any = (), **kwargs: Any) -> list[Finding]:
        found = super().diagnose(queues, **kwargs)
        for each in queues:
            self.declare(getattr(each, "queue", each))
        return found


class TakesToLook(MemoryClient):
    """Takes a message for a moment."""

    def diagnose(self, queues: Any = (), **kwargs: Any) -> list[Finding]:
        found = super().diagnose(queues, **kwargs)
        for each in queues:
            if isinstance(each, str):
                continue
            for delivery in self.receive(each.queue, 1, 0.0):
                self.reject(delivery)
        return found


class RaisesWhatItFinds(MemoryClient):
    """Takes a queue that is missing for an error."""

    def diagnose(self, queues: Any = (), **kwargs: Any) -> list[Finding]:
        found = super().diagnose(queues, **kwargs)
        for each in found:
            if each.status is FindingStatus.WARNING:
                raise UnroutableError(each.text)
        return found


class SaysNothingOfWhatIsMissing(MemoryClient):
    """Is content with a queue that does not exist."""

    def diagnose(self, queues: Any = (), **kwargs: Any) -> list[Finding]:
        return [replace(each, status=FindingStatus.OK) for each in super().diagnose(queues, **kwargs)]


class LooksAtAnything(MemoryClient):
    """Does not look at what it is given."""

    def diagnose(self, queues: Any = (), **kwargs: Any) -> list[Finding]:
        try:
            return super().diagnose(queues, **kwargs)
        except ValueError:
            return []
