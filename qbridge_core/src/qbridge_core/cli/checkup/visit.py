"""One look at a program, its broker and its queues."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from qbridge_core.cli.checkup.own_checks import own_looks
from qbridge_core.cli.checkup.target import Target, is_target, target_of
from qbridge_core.cli.exits import BROKER, DONE, FAILED
from qbridge_core.cli.targets import load
from qbridge_core.contract.client import QueueClient
from qbridge_core.contract.diagnosing import DIAGNOSIS_SECONDS
from qbridge_core.contract.findings import Check, Finding, QueueUse, examine, is_well
from qbridge_core.contract.registry import client_for
from qbridge_core.errors import AuthenticationError, ConfigurationError, QBridgeError, TransientError

_SERVER: Final = Check("server")
_TARGET: Final = Check("target")


class Visit:
    """What is known, and what was found.

    Args:
        uses: the queues that were named.
        termination_grace: seconds that a worker has to stop, if that is known.

    Attributes:
        findings: in the order in which they were found.
        client: a connected one, if there is one.
    """

    def __init__(self, uses: Sequence[QueueUse], termination_grace: float | None) -> None:
        self.findings: list[Finding] = []
        self.client: QueueClient | None = None
        self._uses = {use.queue: use for use in uses}
        self._termination_grace = termination_grace
        self._target: Target | None = None
        self._is_away = False

    @property
    def code(self) -> int:
        """The exit code that says how it ended."""
        if self._is_away:
            return BROKER
        return DONE if is_well(self.findings) else FAILED

    def build(self, name: str) -> None:
        """Find out what a program would do; its function is called, and may connect.

        Raises:
            ConfigurationError: there is no such program.
        """
        try:
            self._build(name, load(name))
        except (TransientError, AuthenticationError) as exc:
            self._has_no_broker(exc)
        except SystemExit:
            raise ConfigurationError(f"{name} ends the process (SystemExit) where it is imported or built") from None

    def _build(self, name: str, found: object) -> None:
        if not is_target(found):
            raise ConfigurationError(
                f"{name} is a {type(found).__name__}; a target is an App, a function that returns a TaskManager, "
                "a TaskManager, or a handler"
            )
        try:
            self._target = target = target_of(found)
        except (TransientError, AuthenticationError):
            raise
        except Exception as exc:  # noqa: BLE001 - it is the user's function
            self.findings.append(_TARGET.problem(f"{name} cannot be built: {type(exc).__name__}: {exc}"))
        else:
            self.client = target.client
            self._uses.update({use.queue: use for use in target.uses})

    def connect(self, url: str) -> None:
        """Connect to a broker, in place of the program's own.

        Raises:
            ConfigurationError: the URL is wrong.
        """
        client = client_for(url)
        try:
            client.connect()
        except (TransientError, AuthenticationError) as exc:
            self._has_no_broker(exc)
        except QBridgeError as exc:
            self.findings.append(_SERVER.problem(f"no client can work with it: {exc}"))
        else:
            self.client = client

    def look(self) -> None:
        """Make all checks."""
        uses = list(self._uses.values())
        client = self.client
        if client is not None:
            self.findings += _diagnosed(client, uses)
        elif not self.findings:
            self.findings.append(_SERVER.not_checked("no broker was named", "qbridge doctor --url URL"))
        if client is not None and not uses:
            self.findings.append(Check("queue").not_checked("no queue was named", "qbridge doctor QUEUE"))
        looks = own_looks(self._target, self._termination_grace, client, uses)
        self.findings += examine(looks, DIAGNOSIS_SECONDS)

    def _has_no_broker(self, exc: QBridgeError) -> None:
        self._is_away = True
        self.findings.append(_SERVER.problem(str(exc)))


def _diagnosed(client: QueueClient, uses: list[QueueUse]) -> list[Finding]:
    if not client.capabilities.diagnoses:
        return [_SERVER.not_checked(f"{type(client).__name__} does not look at its broker")]
    return client.diagnose(uses)
