"""What is written on a message about the deaths of those that held it."""

from __future__ import annotations

from qbridge_core.contract.headers import BESIDE, CRASHES, SUSPICIONS, meta_int
from qbridge_core.contract.message import Delivery


def suspicions(delivery: Delivery) -> int:
    """How many workers have died with a message, for none of which it could be charged."""
    told = meta_int(delivery.meta, SUSPICIONS)
    # A backend that does not know the mark counts the deaths as crashes.
    return told + max(0, delivery.crashes - charged(delivery)) if BESIDE in delivery.meta else told


def charged(delivery: Delivery) -> int:
    """How many deaths are known to be this message's doing."""
    return meta_int(delivery.meta, CRASHES) if BESIDE in delivery.meta else delivery.crashes
