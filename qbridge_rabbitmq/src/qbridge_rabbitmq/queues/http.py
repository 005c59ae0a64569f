"""Reads JSON by HTTP. Imported when there is an API to read: what comes along takes 2 MiB and 12 ms."""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from typing import Any, Final

_LARGEST: Final = 64 * 1024 * 1024


class StatusError(Exception):
    """The server refuses.

    Args:
        code: the status that it answers with.
    """

    def __init__(self, code: int) -> None:
        super().__init__(f"it answers {code}")
        self.code = code


class JsonReader:
    """Follows no redirect, for that would be given the password too.

    Args:
        tls: certificates to trust, with ``https``.
    """

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._opener = urllib.request.build_opener(_NoRedirect(), urllib.request.HTTPSHandler(context=tls))

    def get(self, url: str, authorization: str, timeout: float) -> Any:
        """What is there, within ``timeout`` seconds for each step.

        Raises:
            StatusError: the server refuses.
            Exception: whatever else another server can cause.
        """
        request = urllib.request.Request(url, headers={"Authorization": authorization})  # noqa: S310 - checked before
        try:
            with self._opener.open(request, timeout=timeout) as answer:
                return json.loads(answer.read(_LARGEST))
        except urllib.error.HTTPError as exc:
            exc.close()
            raise StatusError(exc.code) from None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        """Follow none."""
        del args, kwargs
