"""RabbitMQ's management API, as far as it is needed: policies and queues (rabbitmq.com/docs/management)."""

from __future__ import annotations

import base64
import functools
import ssl
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from qbridge_core.backend import BrokerURL
from qbridge_rabbitmq.connection.options import Endpoint

if TYPE_CHECKING:
    from qbridge_rabbitmq.queues.http import JsonReader

_TIMEOUT: Final = 5.0
_NOT_FOUND: Final = 404


class ManagementError(Exception):
    """The API cannot be read; the text says why, and shows no password."""


class Management:
    """The API of one server, for one virtual host. Its methods block, for some seconds at most.

    Args:
        url: where it is, with credentials.
        username: to log in with, when the URL has no credentials.
        password: belongs to it.
        vhost: what is read is that of this one.
        tls: certificates to trust, with ``https``.
    """

    def __init__(self, url: BrokerURL, username: str, password: str, vhost: str, tls: ssl.SSLContext | None) -> None:
        self._url = url
        login = (url.username, url.password or "") if url.username is not None else (username, password)
        self._login = base64.b64encode(":".join(login).encode()).decode()
        self._vhost = quote(vhost, safe="")
        self._tls = tls

    @classmethod
    def of(cls, endpoint: Endpoint) -> Management | None:
        """That of a broker for which the option ``management_url`` is given."""
        url = endpoint.options.management_url
        if url is None:
            return None
        return cls(url, *endpoint.credentials, endpoint.vhost, endpoint.management_tls())

    def __str__(self) -> str:
        return str(self._url)

    def policies(self) -> list[dict[str, Any]]:
        """The policies of the virtual host; the user needs the tag ``policymaker``.

        Raises:
            ManagementError: they cannot be read.
        """
        return _rows(self._get("policies", "policymaker"))

    def operator_policies(self) -> list[dict[str, Any]]:
        """The same for operator policies."""
        return _rows(self._get("operator-policies", "policymaker"))

    def queue_states(self) -> list[dict[str, Any]]:
        """The names of the queues, their types, states and leaders; the user needs the tag ``management``."""
        return _rows(self._get("queues", "management", "?columns=name,type,state,leader"))

    def queues(self) -> list[dict[str, Any]]:
        """The queues of the virtual host: name, type, dead-letter route; the user needs the tag ``management``.

        Raises:
            ManagementError: they cannot be read.
        """
        columns = "name,type,exclusive,arguments.x-dead-letter-exchange,arguments.x-dead-letter-routing-key"
        return _rows(self._get("queues", "management", f"?disable_stats=true&columns={columns}"))

    def queue(self, name: str) -> dict[str, Any]:
        """What is known of one queue, nothing of one that does not exist; the user needs the tag ``management``.

        Raises:
            ManagementError: it cannot be read.
        """
        try:
            (row,) = _rows([self._get("queues", "management", f"/{quote(name, safe='')}")])
        except _MissingError:
            return {}
        return row

    @functools.cached_property
    def _reader(self) -> JsonReader:
        from qbridge_rabbitmq.queues.http import JsonReader

        return JsonReader(self._tls)

    def _get(self, what: str, tag: str, rest: str = "") -> Any:
        from qbridge_rabbitmq.queues.http import StatusError

        host, port = self._url.host or "localhost", self._url.port or (15671 if self._url.scheme == "https" else 15672)
        address = f"[{host}]" if ":" in host else host
        prefix = quote((self._url.path or "").rstrip("/"))
        path = f"{prefix and '/'}{prefix}/api/{what}/{self._vhost}{rest}"
        url = f"{self._url.scheme}://{address}:{port}{path}"
        try:
            return self._reader.get(url, f"Basic {self._login}", _TIMEOUT)
        except StatusError as exc:
            hint = f" (a wrong user or password, or a user without the tag {tag})" if exc.code in {401, 403} else ""
            kind = _MissingError if exc.code == _NOT_FOUND else ManagementError
            raise kind(f"{exc}{hint}") from None
        except Exception as exc:  # noqa: BLE001 - whatever another server says must hurt nobody
            raise ManagementError(str(getattr(exc, "reason", exc)) or type(exc).__name__) from None


class _MissingError(ManagementError):
    """There is nothing of that name."""


def _rows(found: Any) -> list[dict[str, Any]]:
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise ManagementError("it does not speak as RabbitMQ does")
    return found
