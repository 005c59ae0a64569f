"""What tests of apps have in common."""

from __future__ import annotations

import json

from qbridge_core import App, QueueClient, Reason


def client_of(app: App) -> QueueClient:
    """The client that the app has."""
    return app._connection.client()


def letters(app: App, queue: str = "default") -> list[tuple[Reason, str]]:
    """The dead letters of a queue."""
    return [(letter.reason, letter.exception_message) for letter in client_of(app).dead_letters(f"{queue}.dead")]


def raw(app: App, **document: object) -> None:
    """Publish an envelope of another producer."""
    client = client_of(app)
    client.declare("default", "default.dead")
    client.publish("default", json.dumps({"payload": {"number": 1}, **document}).encode())
