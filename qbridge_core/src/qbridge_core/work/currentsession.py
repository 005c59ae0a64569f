"""Which session a manager has: one at a time, and none before its start and after its end."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Final

from qbridge_core.errors import ConfigurationError
from qbridge_core.work.session import Session

_LAST_MOMENT: Final = 0.5


class CurrentSession:
    """The session of a manager, and what ended the last one.

    ``session``, ``here``, ``running`` and ``error`` are for any thread, the rest for one at a time.

    Attributes:
        session: the one that was opened last, until it is forgotten.
    """

    def __init__(self) -> None:
        self.session: Session | None = None
        self._background: threading.Thread | None = None
        self._last_error: BaseException | None = None

    @property
    def here(self) -> Session | None:
        """The session, unless it belongs to the process from which this one was forked."""
        session = self.session
        return session if session is not None and session.pid == os.getpid() else None

    @property
    def running(self) -> Session | None:
        """The same, as long as it has not ended."""
        session = self.here
        return session if session is not None and not session.stopped.is_set() else None

    @property
    def error(self) -> BaseException | None:
        """What has ended it or the last one, or kept that from its start; None when nothing has."""
        session = self.session
        return self._last_error if session is None else session.error

    @property
    def is_taken(self) -> bool:
        """Whether there can be no other one now."""
        session = self.session
        return self._background is not None or (session is not None and not session.stopped.is_set())

    def open(self, make: Callable[[], Session]) -> Session:
        """Have the next one made, which nobody has begun.

        Raises:
            ConfigurationError: there is one, or there was one when this process was forked.
            BaseException: whatever keeps it from being made; it is the ``error``, too.
        """
        if self.session is not None and self.here is None:
            raise ConfigurationError(
                f"this TaskManager was running in process {self.session.pid}, of which this one is a copy; "
                "create a client and a TaskManager in this process"
            )
        if self.is_taken:
            raise ConfigurationError("this TaskManager is running already; create a second one")
        self._last_error = None
        try:
            self.session = session = make()
        except BaseException as exc:
            self._last_error = exc
            raise
        return session

    def launch(self, session: Session) -> threading.Thread:
        """Begin it in a thread of its own, so that nothing in it can keep this one from stopping."""
        thread = threading.Thread(target=session.run, name="qbridge-manager", daemon=True)
        try:
            thread.start()
        except RuntimeError as exc:
            session.stopped.set()
            self.session, self._last_error = None, exc
            raise
        return thread

    def launch_until_left(self, session: Session) -> None:
        """Begin it likewise; there can be no other one before ``leave``."""
        self._background = self.launch(session)

    def leave(self) -> BaseException | None:
        """Forget the one in the background, which was stopped; return what has ended it early."""
        session, self.session = self.session, None
        if session is not None:
            self._last_error = session.error
        if self._background is not None:
            self._background.join(_LAST_MOMENT)
            self._background = None
        return self._last_error

    def forget(self, session: Session) -> None:
        """This one is over, or was never begun."""
        session.stopped.set()
        if self.session is session:  # since ``stop`` returned, another thread may have begun the next one
            self.session, self._last_error = None, session.error

    def refuse_in_handler(self, what: str) -> None:
        """Refuse what would never end, in a thread that it would wait for.

        Raises:
            ConfigurationError: this is such a thread.
        """
        session = self.running
        if session is not None and session.waits_for_caller():
            raise ConfigurationError(
                f"{what} waits for the handlers of this TaskManager, and one of them or a hook asks for it: "
                "it would wait for itself; stop() only asks there"
            )
