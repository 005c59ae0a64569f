"""Django as the framework that all apps of a process live in."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import django
from django.apps import apps
from django.conf import settings

from qbridge_core.app.framework import Framework
from qbridge_core.errors import ConfigurationError

URL_SETTING: Final = "QBRIDGE_URL"
_PRIVATE: Final = re.compile(r"^memory://(?=\?|$)")


class DjangoFramework(Framework):
    """Knows the settings, and looks after connections to databases."""

    def __reduce__(self) -> tuple[Callable[[], DjangoFramework], tuple[()]]:
        return _set_up, ()

    def url(self) -> str:
        """That of the settings."""
        url = url_of_settings()
        if url is None:
            raise ConfigurationError(
                f"which broker? Set {URL_SETTING} in the settings of Django, as in redis://localhost:6379/0"
            )
        return url

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """With a look at the connections."""
        from qbridge_core.contrib.django.connections import with_connections

        return with_connections(function)


def url_of_settings() -> str | None:
    """The broker of the project; ``None`` where the settings do not say.

    Raises:
        ConfigurationError: they say something else there.
    """
    url = getattr(settings, URL_SETTING, None)
    if url is not None and not isinstance(url, str):
        raise ConfigurationError(f"{URL_SETTING} in the settings of Django is a text, not a {type(url).__name__}")
    return with_shared_memory(url) if url else None


def with_shared_memory(url: str) -> str:
    """A broker in memory that all apps and backends of the process share: ``memory://`` is one for each."""
    return _PRIVATE.sub("memory://django", url)


def set_up_django() -> None:
    """Load settings and models, in a process that has not."""
    if not apps.ready:
        django.setup()


def _set_up() -> DjangoFramework:
    set_up_django()
    return DjangoFramework()
