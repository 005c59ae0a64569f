"""The memory backend adopts the suite."""

from qbridge_core.testing import BackendConformance


class TestMemory(BackendConformance):
    """``memory://``: one broker for the clients of a test, named after it."""

    url = "memory://conformance"
