"""The suite that every QBridge backend must pass, ours and yours alike (extra: ``qbridge-core[testing]``).

A backend adopts it in a few lines of a pytest module::

    from qbridge_core.testing import BackendConformance

    class TestMyBackend(BackendConformance):
        url = "mybroker://localhost"

Each test uses queue names of its own, so the suite can run in parallel and against a broker in use. What needs a
broker of its own (it is killed and restarted) is in :class:`FaultConformance`.
"""

import pytest

# Before the imports below: only modules that are imported later get pytest's detailed assertion messages.
pytest.register_assert_rewrite(
    *(f"{__name__}.{part}" for part in ("base", "connection", "publishing", "data", "delays", "receiving", "settling")),
    *(f"{__name__}.{part}" for part in ("leases", "dead_letters", "letters", "outages", "recovery", "interruptions")),
    *(f"{__name__}.{part}" for part in ("sharing", "describing", "workers", "diagnosing", "conformance")),
)

from qbridge_core.testing.base import eventually  # noqa: E402
from qbridge_core.testing.conformance import BackendConformance, FaultConformance, FaultyBroker  # noqa: E402

__all__ = ["BackendConformance", "FaultConformance", "FaultyBroker", "eventually"]
