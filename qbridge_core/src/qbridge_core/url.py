"""Broker URLs: taken apart once, checked, and never printed with their password."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from qbridge_core.errors import InvalidURLError, UnknownOptionError

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")  # RFC 3986, section 3.1


@dataclass(frozen=True, slots=True)
class BrokerURL:
    """The parts of ``scheme://user:password@host:port/path?option=value``.

    ``repr`` and ``str`` hide the password. ``host`` is "" and ``port`` is ``None`` when the URL has none; ``path``
    has no leading slash and is percent-decoded, and ``None`` when the URL ends before the slash.
    """

    scheme: str
    host: str = ""
    port: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    path: str | None = None
    query: Mapping[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def parse(cls, url: str) -> BrokerURL:
        """Take a URL apart.

        Raises:
            InvalidURLError: it is not a URL; the message never repeats the part that may hold a password.
        """
        if not isinstance(url, str):
            raise InvalidURLError(f"a broker URL must be a string, not {type(url).__name__}")
        scheme, separator, _ = url.partition("://")
        if not separator or not _SCHEME.fullmatch(scheme):
            raise InvalidURLError(
                "a broker URL looks like scheme://host:port/path, for example redis://localhost:6379/0"
            )
        try:
            parts = urlsplit(url)
            port = parts.port
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        except ValueError:
            # urllib's error can quote a part of the URL that is really a password: not even the cause may show it.
            raise InvalidURLError(f"the {scheme}:// URL cannot be read: check its port and its query") from None
        if "@" in parts.path:
            raise InvalidURLError(
                f"the {scheme}:// URL has an '@' after a '/': write %2F for a '/' in a user or password"
            )
        query = dict(pairs)
        if len(query) != len(pairs):
            raise InvalidURLError(f"the {scheme}:// URL gives an option twice")
        if parts.fragment:
            raise InvalidURLError(f"the {scheme}:// URL has a '#': write it as %23 when it belongs to a password")
        return cls(
            scheme=scheme.lower(),
            host=unquote(parts.hostname or ""),
            port=port,
            username=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
            path=unquote(parts.path[1:]) if parts.path else None,
            query=query,
        )

    def __str__(self) -> str:
        user = "" if self.username is None else f"{self.username}:***@" if self.password else f"{self.username}@"
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        path = "" if self.path is None else f"/{self.path}"
        return f"{self.scheme}://{user}{host}{port}{path}"


def merge_options(url: BrokerURL, options: Mapping[str, object], known: Collection[str]) -> dict[str, object]:
    """The options of a URL's query with the keyword options over them.

    Raises:
        UnknownOptionError: an option is not in ``known``; the message names those that are.
    """
    merged: dict[str, object] = {**url.query, **options}
    unknown = sorted(set(merged) - set(known))
    if unknown:
        raise UnknownOptionError(
            f"unknown option{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, unknown))} for {url.scheme}://; "
            f"known options: {', '.join(sorted(known)) or 'none'}"
        )
    return merged
