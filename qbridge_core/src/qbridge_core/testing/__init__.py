"""The suite that every QBridge backend must pass, ours and yours alike (extra: ``qbridge-core[testing]``).

A backend adopts it in a few lines of a pytest module::

    from qbridge_core.testing import BackendConformance

    class TestMyBackend(BackendConformance):
        url = "mybroker://localhost"

Each test uses queue names of its own, so the suite can run in parallel and against a broker in use. What needs a
broker of its own (it is killed and restarted) is in :class:`FaultConformance`.
"""

from qbridge_core.testing.base import eventually
from qbridge_core.testing.conformance import BackendConformance, FaultConformance, FaultyBroker

__all__ = ["BackendConformance", "FaultConformance", "FaultyBroker", "eventually"]
