"""Where the server is that a connection needs. It may be another one after a failover."""

from __future__ import annotations

from collections.abc import Callable

from redis.exceptions import MovedError, ReadOnlyError, ResponseError

from qbridge_redis.connection.options import Address, Options


class Route:
    """The way to a server that is always at the same address. Thread-safe, like its subclasses.

    Args:
        options: how to connect.
        address: where; the first host of the options by default.

    Attributes:
        needs_master: whether a server that calls itself a replica is the wrong one.
        needs_watch: whether ``watch`` must be called now and then.
        moves: how often the server has been found elsewhere; connections made before lead to the old one.
    """

    needs_master = False
    needs_watch = False

    def __init__(self, options: Options, address: Address | None = None) -> None:
        self.options = options
        self.moves = 0
        self._address = options.hosts[0] if address is None else address

    def locate(self, timeout: float) -> tuple[Address, int]:  # noqa: ARG002 - here it takes no time
        """The address to connect to and ``moves`` as of then, found within so many seconds.

        Raises:
            BrokerUnavailableError: nobody knows it at the moment.
            AuthenticationError: those who know it refused the credentials.
        """
        return self._address, self.moves

    @property
    def place(self) -> tuple[Address | None, int]:
        """Where the server was found last, if it was, and ``moves`` as of then. Asks nobody."""
        return self._address, self.moves

    def called(self, address: Address | None) -> object:  # noqa: ARG002 - here there is but one
        """What an error calls the server that was found at an address."""
        return self.options

    def failed(self) -> None:
        """The server that was found does not answer, or says that another one is the right one."""

    def contradicted(self, error: ResponseError) -> bool:
        """A server has answered so; return whether it is the wrong one, so that the connection is of no use."""
        if not isinstance(error, ReadOnlyError | MovedError):
            return False
        self.failed()
        return True

    def watch(self) -> bool:
        """Look whether the server has moved, briefly; False when nobody could say."""
        return True

    def close(self) -> None:
        """Close what was opened to find the server."""


OnMove = Callable[[], None]
"""Called when a server is found at another address, by whichever thread finds it, before anybody connects to it."""
