"""The settings that clients of all transports have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from qbridge_core.backend import ConfigurationError, OptionReader, QueueClient, option_count, option_seconds

_YES: Final = {"1", "true", "yes", "on"}
_NO: Final = {"0", "false", "no", "off"}


def option_flag(name: str, value: object) -> bool:
    """Read an option that is true or false.

    Raises:
        ConfigurationError: it is something else.
    """
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _YES | _NO:
        return value.lower() in _YES
    raise ConfigurationError(f"option {name} must be true or false, not {value!r}")


def option_text(name: str, value: object) -> str:
    """Read an option that is a text.

    Raises:
        ConfigurationError: it is something else, or empty.
    """
    if not isinstance(value, str) or not value:
        raise ConfigurationError(f"option {name} must be a text, not {value!r}")
    return value


def option_choice(*choices: str) -> OptionReader:
    """What reads an option that is one of a few texts; anything else is a ``ConfigurationError`` that names them."""

    def read(name: str, value: object) -> str:
        if value not in choices:
            raise ConfigurationError(f"option {name} must be one of {', '.join(choices)}, not {value!r}")
        return str(value)

    return read


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What every client of the bridge can be told; durations are seconds.

    Attributes:
        allow_loss: accept a transport that loses what a worker holds when it dies.
        connect_timeout: how long an attempt to connect may take.
        request_timeout: how long any call of the broker may take before its connection is given up.
        publish_timeout: how long ``publish`` waits for the broker's confirmation.
        poll_interval: the longest pause between two looks into an empty queue.
        max_message_bytes: the longest body that ``publish`` takes.
    """

    allow_loss: bool = False
    connect_timeout: float = 5.0
    request_timeout: float = 5.0
    publish_timeout: float = 10.0
    poll_interval: float = 0.2
    max_message_bytes: int = QueueClient.max_message_bytes

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Settings:
        """Those among options that were read."""
        return cls(**{name: value for name, value in options.items() if name in READERS})


READERS: Final[Mapping[str, OptionReader]] = {
    "allow_loss": option_flag,
    "connect_timeout": option_seconds,
    "request_timeout": option_seconds,
    "publish_timeout": option_seconds,
    "poll_interval": option_seconds,
    "max_message_bytes": option_count,
}

_CHECKED: Final = (
    "certificates are always checked, as TLS protects nobody without that; what the system trusts is trusted, or what "
    "the file has that SSL_CERT_FILE names"
)
HINTS: Final = dict.fromkeys(("ssl", "ssl_cert_reqs", "ssl_check_hostname", "ssl_ca_certs", "cafile"), _CHECKED)
"""What to do instead of these options of kombu's and Celery's."""
