"""kombu's SQLAlchemy transport: two tables of a database."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, ClassVar, Final
from urllib.parse import quote

from qbridge_core.backend import (
    NO_HEADERS,
    BrokerUnavailableError,
    BrokerURL,
    ConfigurationError,
    OptionReader,
    UnroutableError,
)
from qbridge_kombu.options import option_text
from qbridge_kombu.protocol.messages import Outgoing, Received, prepared
from qbridge_kombu.protocol.names import encoded
from qbridge_kombu.transports.session import KombuSession
from qbridge_kombu.transports.virtual import VirtualTransport, received

_LONGEST_NAME: Final = 200  # the column


def _option_dialect(name: str, value: object) -> str:
    return option_text(name, value).replace(" ", "+")  # a '+' in a query is a space


class DatabaseTransport(VirtualTransport):
    """``kombu+sqlalchemy://user:password@host/database?dialect=postgresql+psycopg``,
    ``kombu+sqlalchemy:////file.db?dialect=sqlite``.

    A row that is received becomes invisible, and is deleted when it is acknowledged. That of a worker which died stays
    so until somebody makes it visible by hand: nobody knows whether its worker lives.
    """

    instant_acknowledge = False
    one_session = True
    releases_uncounted = True
    required = "'kombu[sqlalchemy]', and the driver of the dialect"
    capabilities = replace(VirtualTransport.capabilities, browse=True, ordered=True, exact_stats=True, pause=True)
    options: ClassVar[Mapping[str, OptionReader]] = {
        "dialect": _option_dialect, "queue_tablename": option_text, "message_tablename": option_text,
    }  # fmt: skip

    def __init__(self, url: BrokerURL, options: Mapping[str, Any]) -> None:
        super().__init__(url, options)
        if "dialect" not in options:
            raise ConfigurationError(
                f"{url.scheme}:// needs the option dialect, as in {url.scheme}:////var/lib/jobs.db?dialect=sqlite or "
                f"{url.scheme}://user:password@host/database?dialect=postgresql"
            )
        self._address = f"{options['dialect']}://{_login(url)}{_host(url)}/{url.path or ''}"

    def connection_arguments(self) -> Mapping[str, Any]:
        """SQLAlchemy's URL, and the tables."""
        tables = {name: self.given[name] for name in ("queue_tablename", "message_tablename") if name in self.given}
        return {"hostname": f"sqlalchemy+{self._address}", "transport_options": tables}

    def load(self) -> None:
        """Import the database's driver, too: on a busy machine that takes as long as a connection may."""
        super().load()
        from sqlalchemy import make_url
        from sqlalchemy.exc import ArgumentError

        dialect = self.given["dialect"]
        try:
            make_url(f"{dialect}://").get_dialect().import_dbapi()
        except ArgumentError as exc:
            raise ConfigurationError(f"option dialect: SQLAlchemy does not know {dialect!r}") from exc

    def translate(self, exc: Exception, doing: str) -> Exception | None:
        """A file that SQLite cannot open is the path's fault, most of the time."""
        if not self.given["dialect"].startswith("sqlite") or "unable to open database file" not in str(exc):
            return None
        return BrokerUnavailableError(
            f"cannot {doing}: SQLite cannot open the file {self.url.path!r}: its folder must exist, and a path from "
            f"the root has four slashes, as in {self.url.scheme}:////var/lib/jobs.db?dialect=sqlite"
        )

    def name_of(self, queue: str) -> str:
        """What fits into the column."""
        return encoded(queue, allowed=r"\s\S", escape="%", most=_LONGEST_NAME)

    def exists(self, session: KombuSession, name: str) -> bool:
        """Look for its row; the channel's own ways make one."""
        return self._queue_id(session, name) is not None

    def create(self, session: KombuSession, name: str) -> None:
        """Make its row; somebody else may be quicker."""
        from sqlalchemy import insert
        from sqlalchemy.exc import IntegrityError

        if self._queue_id(session, name) is None:
            with suppress(IntegrityError), self._transaction(session) as transaction:
                transaction.execute(insert(session.channel.queue_cls.__table__).values(name=name))

    def size(self, session: KombuSession, name: str) -> int:
        """Count the visible rows."""
        found = self._queue_id(session, name)
        if found is None:
            return 0
        from sqlalchemy import func, select

        table = _messages(session)
        with self._transaction(session) as transaction:
            query = select(func.count()).where(table.c.queue_id == found, table.c.visible.is_(True))
            return int(transaction.execute(query).scalar_one())

    def names(self, session: KombuSession) -> list[str]:
        """All rows, those of other programs too."""
        from sqlalchemy import select

        with self._transaction(session) as transaction:
            return list(transaction.execute(select(session.channel.queue_cls.__table__.c.name)).scalars())

    def purge(self, session: KombuSession, name: str) -> int:
        """Delete the visible rows; kombu's own way deletes those in flight with them."""
        found = self._queue_id(session, name)
        if found is None:
            return 0
        from sqlalchemy import delete

        table = _messages(session)
        with self._transaction(session) as transaction:
            where = delete(table).where(table.c.queue_id == found, table.c.visible.is_(True))
            return int(transaction.execute(where).rowcount)

    def publish(self, session: KombuSession, name: str, messages: Sequence[Outgoing], timeout: float) -> None:
        """Insert all in one transaction."""
        from sqlalchemy import insert

        found = self._require_id(session, name)
        rows = []
        for message in messages:
            payload = prepared(session.channel, message)
            session.channel._inplace_augment_message(payload, "", name)
            rows.append({"payload": json.dumps(payload), "queue_id": found, "visible": True, "version": 1})
        with self._transaction(session) as transaction:
            transaction.execute(insert(_messages(session)), rows)

    def receive(self, session: KombuSession, name: str, count: int, wait: float) -> list[Received]:
        """Make the oldest visible rows invisible."""
        from sqlalchemy import select, update

        found = self._require_id(session, name)
        table = _messages(session)
        query = select(table.c.id, table.c.payload, table.c.version)
        query = query.where(table.c.queue_id == found, table.c.visible.is_(True)).order_by(table.c.id).limit(count)
        with self._transaction(session, writes_later=True) as transaction:
            rows = transaction.execute(query.with_for_update(skip_locked=True)).all()
            if rows:
                ids = [row.id for row in rows]
                change = {"visible": False, "version": table.c.version + 1, "timestamp": table.c.timestamp}
                transaction.execute(update(table).where(table.c.id.in_(ids)).values(**change))
        return [_received(session, row.payload, row.id, row.version > 1) for row in rows]

    def acknowledge(self, session: KombuSession, name: str, received: Sequence[Received]) -> None:
        """Delete the rows; kombu leaves them for ever."""
        from sqlalchemy import delete

        table = _messages(session)
        with self._transaction(session) as transaction:
            transaction.execute(delete(table).where(table.c.id.in_([each.handle for each in received])))

    def release(self, session: KombuSession, name: str, received: Sequence[Received]) -> bool:
        """Make the rows visible again, in their place."""
        from sqlalchemy import update

        table = _messages(session)
        ids = [each.handle for each in received]
        with self._transaction(session) as transaction:
            change = {"visible": True, "timestamp": table.c.timestamp}
            transaction.execute(update(table).where(table.c.id.in_(ids)).values(**change))
        return True

    def peek(self, session: KombuSession, name: str, limit: int) -> list[Received]:
        """Read the oldest visible rows."""
        from sqlalchemy import select

        found = self._queue_id(session, name)
        if found is None or not limit:
            return []
        table = _messages(session)
        query = select(table.c.id, table.c.payload).where(table.c.queue_id == found, table.c.visible.is_(True))
        with self._transaction(session) as transaction:
            rows = transaction.execute(query.order_by(table.c.id).limit(limit)).all()
        return [_received(session, row.payload, row.id, False) for row in rows]

    def connected(self, session: KombuSession) -> None:
        """Take one connection of the engine that kombu makes; its mapped classes have no part in this."""
        engine = _engine(session)
        session.notes["engine"] = engine
        connection = session.notes["connection"] = engine.connect()
        # All sessions of a process share kombu's engine. When another one disposes of it, this connection would go
        # back to a pool that is no more, and be left open.
        connection.detach()

    def closing(self, session: KombuSession) -> None:
        """Close the connection, and those that the engine keeps."""
        if "connection" in session.notes:
            session.notes["connection"].close()
            session.notes["engine"].dispose()

    @contextmanager
    def _transaction(self, session: KombuSession, *, writes_later: bool = False) -> Iterator[Any]:
        """Commit at the end, or roll back.

        Args:
            session: whose database.
            writes_later: it reads before it writes: SQLite must lock the file at once, or two could read the same.
        """
        from sqlalchemy import text

        connection = session.notes["connection"]
        with connection.begin():
            if writes_later and connection.dialect.name == "sqlite":
                connection.execute(text("BEGIN IMMEDIATE TRANSACTION"))
            yield connection

    def _require_id(self, session: KombuSession, name: str) -> int:
        found = self._queue_id(session, name)
        if found is None:
            raise UnroutableError(f"the queue {name!r} does not exist; declare it first")
        return found

    def _queue_id(self, session: KombuSession, name: str) -> int | None:
        from sqlalchemy import select

        ids: dict[str, int] = session.notes.setdefault("queue ids", {})
        if name not in ids:
            table = session.channel.queue_cls.__table__
            with self._transaction(session) as transaction:
                found = transaction.execute(select(table.c.id).where(table.c.name == name)).scalar()
            if found is None:
                return None
            ids[name] = int(found)
        return ids[name]


def _engine(session: KombuSession) -> Any:
    """The engine that all sessions of a process share; kombu makes the tables with it, unless they are there."""
    channel = session.channel
    if session.connection.hostname not in channel._engines:
        _make_tables(channel)
    return channel._open()[0]


def _make_tables(channel: Any) -> None:
    """Make what is missing; kombu itself fails, and leaves a connection open, where another process is quicker."""
    from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError

    engine, tables = channel._engine_from_config(), channel.queue_cls.metadata
    try:
        tables.create_all(engine)
    except DBAPIError as exc:
        if not isinstance(exc, IntegrityError | ProgrammingError) and "exists" not in str(exc):
            raise
        tables.create_all(engine)
    finally:
        engine.dispose()


def _messages(session: KombuSession) -> Any:
    return session.channel.message_cls.__table__


def _received(session: KombuSession, text: str, row: int, redelivered: bool) -> Received:
    """A row; one that is no message of kombu's is its text, for the worker to call malformed."""
    try:
        found = received(session.channel, json.loads(text), row)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Received(text.encode(), NO_HEADERS, {}, row, redelivered)
    found.redelivered = found.redelivered or redelivered
    return found


def _login(url: BrokerURL) -> str:
    if url.username is None:
        return ""
    password = "" if url.password is None else f":{quote(url.password, safe='')}"
    return f"{quote(url.username, safe='')}{password}@"


def _host(url: BrokerURL) -> str:
    host = f"[{url.host}]" if ":" in url.host else url.host
    return host if url.port is None else f"{host}:{url.port}"
