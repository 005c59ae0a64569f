"""Broker URLs: taken apart once, checked, and never printed with their password."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from qbridge_core.errors import InvalidURLError

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")  # RFC 3986, section 3.1
_AUTHORITY_END: Final = re.compile(r"[/?#]")
_ENCODE: Final = (
    "in a user or password write %2F for '/', %23 for '#', %3F for '?', %40 for '@', %5B and %5D for '[' and ']'; "
    "urllib.parse.quote(password, safe='') does that"
)


@dataclass(frozen=True, slots=True)
class BrokerURL:
    """The parts of ``scheme://user:password@host:port/path?option=value``.

    ``repr`` and ``str`` hide the password. ``host`` is "" and ``port`` is ``None`` when the URL has none; ``path``
    has no leading slash and is percent-decoded, and ``None`` when the URL ends before the slash. ``hosts`` has a pair
    of host and port for each server of ``scheme://host1:port1,host2:port2/``; ``host`` and ``port`` are the first one.
    """

    scheme: str
    host: str = ""
    port: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    path: str | None = None
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    hosts: tuple[tuple[str, int | None], ...] = ()

    @classmethod
    def parse(cls, url: str) -> BrokerURL:
        """Take a URL apart.

        Raises:
            InvalidURLError: it is not a URL; the message never repeats the part that may hold a password.
        """
        if not isinstance(url, str):
            raise InvalidURLError(f"a broker URL must be a string, not {type(url).__name__}")
        scheme, separator, rest = url.partition("://")
        if not separator or not _SCHEME.fullmatch(scheme):
            raise InvalidURLError(
                "a broker URL looks like scheme://host:port/path, for example redis://localhost:6379/0"
                f"{_what_is_no_scheme(url)}"
            )
        if not is_utf8(rest):
            raise InvalidURLError(
                f"the {scheme}:// URL has a character that UTF-8 cannot express (it was read in a wrong encoding): "
                "write it in UTF-8, or percent-encode its bytes in UTF-8"
            )
        authority = _AUTHORITY_END.split(rest, maxsplit=1)[0]  # urllib knows no list of hosts
        tail = rest[len(authority) :]
        try:
            login, hosts = _split_authority(authority)
            parts = urlsplit(f"{scheme}://{tail}")
            pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query), errors="strict")
            username, password, path = map(_decoded, (login.username, login.password, parts.path[1:]))
        except ValueError as exc:
            # urllib's error can quote a part of the URL that is really a password: not even the cause may show it.
            raise InvalidURLError(_why_unreadable(scheme, authority, tail, exc)) from None
        if "@" in parts.path:
            raise InvalidURLError(f"the {scheme}:// URL has an '@' after a '/': {_ENCODE}")
        query = dict(pairs)
        if len(query) != len(pairs):
            raise InvalidURLError(f"the {scheme}:// URL gives an option twice")
        if parts.fragment:
            raise InvalidURLError(f"the {scheme}:// URL has a '#': {_ENCODE}")
        return cls(
            scheme=scheme.lower(),
            host=hosts[0][0],
            port=hosts[0][1],
            username=username,
            password=password,
            path=path if parts.path else None,
            query=query,
            hosts=hosts,
        )

    def __str__(self) -> str:
        user = "" if self.username is None else f"{self.username}:***@" if self.password else f"{self.username}@"
        hosts = ",".join(_address(host, port) for host, port in self.hosts or ((self.host, self.port),))
        path = "" if self.path is None else f"/{self.path}"
        return f"{self.scheme}://{user}{hosts}{path}"


def is_utf8(text: str) -> bool:
    """False with lone surrogates, as in what was read from the environment or a file in another encoding."""
    # Without an exception: it would hold the text, and with it a password.
    return text.encode("utf-8", "ignore").decode("utf-8") == text


def _what_is_no_scheme(url: str) -> str:
    """How a URL without a scheme begins, as the end of a sentence, without showing any of it."""
    if not url.strip():
        return "; this one is empty"
    return "; this one begins with a space or a quote" if url[0].isspace() or url[0] in "'\"" else ""


def _why_unreadable(scheme: str, authority: str, tail: str, exc: ValueError) -> str:
    """Guess what is wrong without repeating any of it."""
    if isinstance(exc, UnicodeDecodeError):
        return f"the {scheme}:// URL has a percent-encoded part that is not UTF-8: encode its UTF-8 bytes"
    login, _, addresses = authority.rpartition("@")
    if "@" in tail or (login and _can_be_hosts(addresses) and not _can_be_hosts(f"{login}@")):
        return f"the {scheme}:// URL cannot be read: {_ENCODE}"
    return f"the {scheme}:// URL cannot be read: check its host, its port (1 to 65535) and its query"


def _can_be_hosts(authority: str) -> bool:
    try:
        _split_authority(authority)
    except ValueError:
        return False
    return True


def _decoded(text: str | None) -> str | None:
    """Percent-decoded; an escape that is no UTF-8 is an error and no other character."""
    return None if text is None else unquote(text, errors="strict")


def _split_authority(authority: str) -> tuple[SplitResult, tuple[tuple[str, int | None], ...]]:
    """The user and password of ``user:password@host1:port1,host2:port2``, and its hosts, one at least."""
    login, at, addresses = authority.rpartition("@")
    parts = [urlsplit(f"//{address}") for address in addresses.split(",")]
    hosts = tuple((unquote(part.hostname or ""), part.port) for part in parts)
    if len(hosts) > 1 and not all(host for host, _ in hosts):
        raise ValueError("an empty host in a list of hosts")
    if any(port == 0 for _, port in hosts):
        raise ValueError("nothing can listen on port 0")
    return urlsplit(f"//{login}{at}"), hosts


def _address(host: str, port: int | None) -> str:
    name = f"[{host}]" if ":" in host else host
    return name if port is None else f"{name}:{port}"
