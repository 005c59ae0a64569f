"""Every broker that kombu reaches, for QBridge: with what each of them can promise, and no more."""

from qbridge_kombu.client import KombuClient

__all__ = ["KombuClient"]
