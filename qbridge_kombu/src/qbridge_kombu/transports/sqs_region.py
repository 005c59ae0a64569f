"""The region of Amazon SQS: each has queues of its own, so one that was guessed would be the wrong one in silence."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from qbridge_core.backend import BrokerURL, ConfigurationError

_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")
_AMAZONS: Final = re.compile(r"[a-z]{2,3}(-[a-z]+)+-\d+")
_AMAZONS_HOSTS: Final = (".amazonaws.com", ".amazonaws.com.cn")


def option_region(name: str, value: object) -> str:
    """Read the option.

    Raises:
        ConfigurationError: no region has such a name.
    """
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ConfigurationError(f"option {name} must be the name of a region, as in eu-west-1, not {value!r}")
    return value


def check_host(url: BrokerURL) -> None:
    """Refuse a URL that names a region where a host belongs.

    Raises:
        ConfigurationError: it does.
    """
    if _AMAZONS.fullmatch(url.host):
        raise ConfigurationError(
            f"{url.host!r} is a region and no host: leave the host out, as in {url.scheme}://key:secret@?region={url.host}"
        )


def require_region(url: BrokerURL, given: Mapping[str, Any]) -> None:
    """See that somebody has said which region is meant: the option, or boto3's settings. Other servers need none.

    Raises:
        ConfigurationError: nobody has.
    """
    import boto3  # it takes a while

    if url.host and not url.host.endswith(_AMAZONS_HOSTS):
        return
    if "region" not in given and not boto3.Session().region_name:
        raise ConfigurationError(
            f"{url.scheme}:// needs to know Amazon's region: give the option region, as in ?region=eu-west-1, or set "
            "AWS_DEFAULT_REGION"
        )


@lru_cache(maxsize=8)
def doubt(region: str | None) -> str:
    """What to say behind an error of a service that cannot be reached, when this boto3 knows no such region."""
    import boto3

    if region is None or region in boto3.Session().get_available_regions("sqs"):
        return ""
    return f"; is {region!r} a region of Amazon's?"
