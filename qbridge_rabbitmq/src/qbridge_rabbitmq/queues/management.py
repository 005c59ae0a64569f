"""RabbitMQ's management API, as far as it is needed: which policies there are (rabbitmq.com/docs/management)."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from typing import Any, Final
from urllib.parse import quote

from qbridge_core.backend import BrokerURL

_TIMEOUT: Final = 5.0
_LARGEST: Final = 16 * 1024 * 1024


class ManagementError(Exception):
    """The API cannot be read; the text says why, and shows no password."""


class Management:
    """The API of one server, for one virtual host. Its methods block, for some seconds at most.

    Args:
        url: where it is, with credentials.
        username: to log in with, when the URL has no credentials.
        password: belongs to it.
        vhost: whose policies are read.
        tls: certificates to trust, with ``https``.
    """

    def __init__(self, url: BrokerURL, username: str, password: str, vhost: str, tls: ssl.SSLContext | None) -> None:
        self._url = url
        login = (url.username, url.password or "") if url.username is not None else (username, password)
        self._login = base64.b64encode(":".join(login).encode()).decode()
        self._vhost = quote(vhost, safe="")
        # A redirect would be given the password too.
        self._opener = urllib.request.build_opener(_NoRedirect(), urllib.request.HTTPSHandler(context=tls))

    def __str__(self) -> str:
        return str(self._url)

    def policies(self) -> list[dict[str, Any]]:
        """The policies of the virtual host; the user needs the tag ``policymaker``.

        Raises:
            ManagementError: they cannot be read.
        """
        return self._get("policies")

    def operator_policies(self) -> list[dict[str, Any]]:
        """The same for operator policies."""
        return self._get("operator-policies")

    def queue_states(self) -> list[dict[str, Any]]:
        """The names of the queues, their types, states and leaders; the user needs the tag ``management``."""
        return self._get("queues", "?columns=name,type,state,leader")

    def _get(self, what: str, query: str = "") -> list[dict[str, Any]]:
        host, port = self._url.host or "localhost", self._url.port or (15671 if self._url.scheme == "https" else 15672)
        address = f"[{host}]" if ":" in host else host
        prefix = quote((self._url.path or "").rstrip("/"))
        path = f"{prefix and '/'}{prefix}/api/{what}/{self._vhost}{query}"
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            f"{self._url.scheme}://{address}:{port}{path}", headers={"Authorization": f"Basic {self._login}"}
        )
        try:
            with self._opener.open(request, timeout=_TIMEOUT) as answer:
                rows = json.loads(answer.read(_LARGEST))
        except urllib.error.HTTPError as exc:
            exc.close()
            hint = (
                " (a wrong user or password, or a user without the tag policymaker)" if exc.code in {401, 403} else ""
            )
            raise ManagementError(f"it answers {exc.code}{hint}") from None
        except Exception as exc:  # noqa: BLE001 - whatever another server says must hurt nobody
            raise ManagementError(str(getattr(exc, "reason", exc)) or type(exc).__name__) from None
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ManagementError("it does not speak as RabbitMQ does")
        return rows


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow none."""
        del args, kwargs
