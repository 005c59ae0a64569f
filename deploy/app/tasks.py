"""The example application of this folder: yours takes its place."""

from __future__ import annotations

import logging


def send_email(payload: dict[str, str]) -> None:
    """Run by the workers for each message of the queue ``emails``."""
    logging.getLogger("shop").info("sent to %s", payload["to"])
