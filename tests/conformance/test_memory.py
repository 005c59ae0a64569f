"""The memory backend adopts the suite."""

from conformance.own_backends import OwnBackend


class TestMemory(OwnBackend):
    """``memory://``: one broker for the clients of a test, named after it."""

    url = "memory://conformance"
