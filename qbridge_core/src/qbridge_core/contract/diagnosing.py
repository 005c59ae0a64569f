"""What a client says of its broker to those who look for what will hurt them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from qbridge_core.errors import UnsupportedError

if TYPE_CHECKING:
    from qbridge_core.contract.findings import Finding, QueueUse

DIAGNOSIS_SECONDS: Final = 30.0
"""How long a client may look, when nobody says."""


class Diagnosing:
    """Looks at a broker, and says what is wrong there."""

    def diagnose(self, queues: Iterable[str | QueueUse] = (), *, timeout: float = DIAGNOSIS_SECONDS) -> list[Finding]:
        """Look for what bites people: at the server, and at the queues that are named.

        It changes nothing at the broker, makes no queue, and takes no message out of one, not even for a moment. What
        cannot be found out is a finding too, ``not checked`` with the reason; a broker that does not answer is a
        ``problem``.

        Args:
            queues: names, or what is known of their use; a queue that does not exist is a finding.
            timeout: seconds after which no further look is begun. A call that is under way has its own deadline.

        Raises:
            NotConnectedError: the client is not connected.
            UnsupportedError: without the capability ``diagnoses``.
            ConfigurationError: no queue can have one of the names, or ``timeout`` is no positive number.
        """
        from qbridge_core.contract.findings import check_uses  # here, for few look

        check_uses(queues, timeout)
        raise UnsupportedError(f"{type(self).__name__} cannot look at its broker")
