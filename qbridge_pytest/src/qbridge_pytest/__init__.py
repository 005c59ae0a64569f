"""QBridge's plugin for pytest: the fixture ``qbridge``, which is a :class:`Kit`.

What pytest loads with each run is :mod:`qbridge_pytest.plugin`; everything else is imported when a test asks for the
fixture.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qbridge_pytest.faults import WorkerDiedError
    from qbridge_pytest.kit import Kit
    from qbridge_pytest.sent import Sent
    from qbridge_pytest.story import Step

__all__ = ["Kit", "Sent", "Step", "WorkerDiedError"]


def __getattr__(name: str) -> object:
    """Import what somebody asks for."""
    found: object
    if name == "Kit":
        from qbridge_pytest.kit import Kit as found
    elif name == "Sent":
        from qbridge_pytest.sent import Sent as found
    elif name == "Step":
        from qbridge_pytest.story import Step as found
    elif name == "WorkerDiedError":
        from qbridge_pytest.faults import WorkerDiedError as found
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found
