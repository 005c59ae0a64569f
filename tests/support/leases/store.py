"""What the lease broker keeps: an SQLite file, so that a kill of the process loses nothing that was confirmed."""

from __future__ import annotations

import json
import sqlite3
import time
import uuid
from pathlib import Path
from typing import Any

Item = dict[str, Any]

_TABLES = """
CREATE TABLE IF NOT EXISTS queues (name TEXT PRIMARY KEY);
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT, due REAL, body TEXT, headers TEXT, message_id TEXT, meta TEXT,
    crashes INTEGER DEFAULT 0, redelivered INTEGER DEFAULT 0,
    token TEXT, owner TEXT, ask INTEGER, lease REAL, lent_until REAL);
CREATE INDEX IF NOT EXISTS by_due ON messages (queue, due, id);
CREATE INDEX IF NOT EXISTS by_token ON messages (token);
CREATE TABLE IF NOT EXISTS settled (token TEXT PRIMARY KEY);
"""


class MissingQueueError(Exception):
    """The queue does not exist."""


class LostError(Exception):
    """The lease of this message has ended."""


class Store:
    """The queues. One thread; each public method is one transaction."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = OFF")  # what the kernel has survives a kill
        self._db.executescript(_TABLES)
        self._last = 0.0
        # While the broker was away nobody could renew.
        self._db.execute("UPDATE messages SET lent_until = ? + lease WHERE token IS NOT NULL", (time.time(),))

    def declare(self, names: list[str]) -> None:
        """Create queues where they are missing."""
        with self._db:
            self._db.executemany("INSERT OR IGNORE INTO queues VALUES (?)", [(name,) for name in names])

    def publish(self, queue: str, items: list[Item], delay: float) -> None:
        """Add messages, all or none."""
        self._require(queue)
        rows = [(queue, self._now() + delay, i["body"], json.dumps(i["headers"]), i["id"], "{}") for i in items]
        self._db.execute("BEGIN")
        with self._db:
            self._db.executemany(
                "INSERT INTO messages (queue, due, body, headers, message_id, meta) VALUES (?, ?, ?, ?, ?, ?)", rows
            )

    def lend(self, queue: str, count: int, owner: str, ask: int, lease: float) -> list[Item]:
        """Lend up to ``count`` ready messages."""
        self._require(queue)
        now = time.time()
        found = self._db.execute(
            "SELECT id, body, headers, message_id, meta, crashes, redelivered FROM messages"
            " WHERE queue = ? AND token IS NULL AND due <= ? ORDER BY due, id LIMIT ?",
            (queue, self._now(), count),
        ).fetchall()
        lent = []
        for number, body, headers, message_id, meta, crashes, redelivered in found:
            token = uuid.uuid4().hex
            self._db.execute(
                "UPDATE messages SET token = ?, owner = ?, ask = ?, lease = ?, lent_until = ?, redelivered = 1"
                " WHERE id = ?",
                (token, owner, ask, lease, now + lease, number),
            )
            lent.append({
                "token": token, "body": body, "headers": json.loads(headers), "id": message_id,
                "meta": json.loads(meta), "crashes": crashes, "redelivered": bool(redelivered),
            })  # fmt: skip
        return lent

    def renew(self, tokens: list[str]) -> None:
        """Their clients live."""
        now = time.time()
        self._db.executemany(
            "UPDATE messages SET lent_until = ? + lease WHERE token = ?", [(now, token) for token in tokens]
        )

    def end_leases(self, stalled: float) -> None:
        """Take back what was not renewed; for ``stalled`` seconds the broker itself did not look."""
        if stalled:
            self._db.execute("UPDATE messages SET lent_until = lent_until + ? WHERE token IS NOT NULL", (stalled,))
        self._db.execute(
            "UPDATE messages SET token = NULL, crashes = crashes + 1 WHERE token IS NOT NULL AND lent_until < ?",
            (time.time(),),
        )

    def give_back(self, owner: str, ask: int | None = None) -> None:
        """End the leases of a client, or those of one request of it, without counting anything."""
        self._db.execute(
            "UPDATE messages SET token = NULL WHERE owner = ? AND token IS NOT NULL AND (? IS NULL OR ask = ?)",
            (owner, ask, ask),
        )

    def remove(self, tokens: list[str]) -> None:
        """Their work is done. What was lost meanwhile is left to whoever has it now."""
        self._db.execute("BEGIN")
        with self._db:
            for token in tokens:
                if self._db.execute("DELETE FROM messages WHERE token = ?", (token,)).rowcount:
                    self._db.execute("INSERT INTO settled VALUES (?)", (token,))

    def move(self, token: str, target: str, change: Item, delay: float) -> None:
        """Settle a message and make its next state available, in one step; once, however often it is asked for."""
        if self._db.execute("SELECT 1 FROM settled WHERE token = ?", (token,)).fetchone():
            return
        self._db.execute("BEGIN")
        with self._db:
            self._db.execute("INSERT OR IGNORE INTO queues VALUES (?)", (target,))
            moved = self._db.execute(
                "UPDATE messages SET token = NULL, queue = ?, due = ?, meta = coalesce(?, meta),"
                " message_id = coalesce(message_id, ?), crashes = coalesce(?, crashes),"
                " redelivered = coalesce(?, redelivered) WHERE token = ?",
                (target, self._now() + delay, _json(change.get("meta")), change.get("id"), change.get("crashes"),
                 change.get("redelivered"), token),
            )  # fmt: skip
            if not moved.rowcount:
                raise LostError
            self._db.execute("INSERT INTO settled VALUES (?)", (token,))

    def peek(self, queue: str, count: int) -> list[Item]:
        """The first ready messages, left where they are."""
        rows = self._db.execute(
            "SELECT body, headers, meta FROM messages WHERE queue = ? AND token IS NULL AND due <= ?"
            " ORDER BY due, id LIMIT ?",
            (queue, self._now(), count),
        )
        return [
            {"body": body, "headers": json.loads(headers), "meta": json.loads(meta)} for body, headers, meta in rows
        ]

    def purge(self, queue: str) -> int:
        """Delete what is ready."""
        return self._db.execute(
            "DELETE FROM messages WHERE queue = ? AND token IS NULL AND due <= ?", (queue, self._now())
        ).rowcount

    def stats(self, queue: str) -> list[int]:
        """How many are ready, lent and delayed."""
        row = self._db.execute(
            "SELECT count(*) FILTER (WHERE token IS NULL AND due <= ?1), count(*) FILTER (WHERE token IS NOT NULL),"
            " count(*) FILTER (WHERE token IS NULL AND due > ?1) FROM messages WHERE queue = ?2",
            (self._now(), queue),
        ).fetchone()
        return list(row)

    def _now(self) -> float:
        """The time, never the same twice: what comes later is due later."""
        self._last = max(time.time(), self._last + 1e-6)
        return self._last

    def _require(self, queue: str) -> None:
        if not self._db.execute("SELECT 1 FROM queues WHERE name = ?", (queue,)).fetchone():
            raise MissingQueueError


def _json(value: Item | None) -> str | None:
    return None if value is None else json.dumps(value)
