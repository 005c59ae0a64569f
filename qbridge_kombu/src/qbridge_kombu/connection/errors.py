"""Errors of drivers, turned into QBridge's, without a password in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import quote

from qbridge_core.backend import BrokerUnavailableError, ConfigurationError, QBridgeError

_LONGEST: Final = 300
_LONG: Final = 6
_HIDDEN: Final = "***"


class Secrets:
    """What no text may show: the password of a URL, as it is and as URLs write it."""

    def __init__(self, *secrets: str | None) -> None:
        known = {form for secret in secrets if secret for form in (secret, quote(secret, safe=""), quote(secret))}
        self._secrets = sorted(known, key=len, reverse=True)

    def hidden_in(self, text: str) -> str:
        """The text without them. One that is as short as a word of the language counts only where passwords stand."""
        for secret in self._secrets:
            mark = secret if len(secret) >= _LONG else f":{secret}@"
            text = text.replace(mark, mark.replace(secret, _HIDDEN))
        return text

    def shows_in(self, exc: BaseException) -> bool:
        """Whether an exception, or one behind it, would show one of them."""
        seen: set[int] = set()
        current: BaseException | None = exc
        while current is not None and id(current) not in seen:
            seen.add(id(current))
            if any(text != self.hidden_in(text) for text in (str(current), repr(current))):
                return True
            current = current.__cause__ or current.__context__
        return False


class HiddenCause(Exception):
    """Stands for a driver's exception whose text has a password in it."""


Translate = Callable[[Exception, str], Exception | None]


def translated(exc: Exception, doing: str, translate: Translate, secrets: Secrets, required: str) -> QBridgeError:
    """The error of QBridge's for what a driver raised, with that as its cause.

    Args:
        exc: what was raised.
        doing: what could not be done, as in ``publish to 'jobs'``.
        translate: what the transport knows of its driver's errors.
        secrets: what must not show.
        required: what to install when a module is missing.
    """
    if isinstance(exc, QBridgeError):
        return exc
    found = translate(exc, doing)
    if not isinstance(found, QBridgeError):
        if isinstance(exc, ImportError):
            what = f"run: pip install {required}" if required else "install the package that has it"
            found = ConfigurationError(f"cannot {doing}: {_in_words(exc, secrets)}; {what}")
        else:
            found = BrokerUnavailableError(f"cannot {doing}: {_in_words(exc, secrets)}")
    # A cause must not show either what the text hides.
    found.__cause__ = exc if not secrets.shows_in(exc) else HiddenCause(_in_words(exc, secrets))
    found.__suppress_context__ = True
    return found


def _in_words(exc: Exception, secrets: Secrets) -> str:
    text = " ".join(secrets.hidden_in(str(exc)).split())
    shown = text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
    return f"{type(exc).__name__}: {shown}" if shown else type(exc).__name__
