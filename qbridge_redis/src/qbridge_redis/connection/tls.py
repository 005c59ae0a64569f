"""TLS: the certificates, and what redis-py is told of them."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from qbridge_core.backend import ConfigurationError
from qbridge_redis.connection.options import Options


def check_files(options: Options) -> None:
    """See that the certificates can be used, before an attempt to connect says so in OpenSSL's words.

    Raises:
        ConfigurationError: one is missing or of no use.
    """
    if not options.tls:
        return
    if options.keyfile and not options.certfile:
        raise ConfigurationError("keyfile is the key of certfile, which is not given")
    for name in ("cafile", "certfile", "keyfile"):
        path = getattr(options, name)
        try:
            if path and not Path(path).read_bytes():
                raise ConfigurationError(f"{name} {path!r} is empty")
        except OSError as exc:
            raise ConfigurationError(f"{name} {path!r} cannot be read: {exc.strerror}") from exc
    try:
        context = ssl.create_default_context(cafile=options.cafile)
        if options.certfile:
            context.load_cert_chain(options.certfile, options.keyfile)
    except (OSError, ValueError) as exc:
        files = ", ".join(filter(None, (options.cafile, options.certfile, options.keyfile)))
        raise ConfigurationError(f"the certificates cannot be used ({files}): {exc}") from exc


def driver_settings(options: Options) -> dict[str, Any]:
    """The arguments of a connection of redis-py that are about TLS."""
    return {
        "ssl_ca_certs": options.cafile,
        "ssl_certfile": options.certfile,
        "ssl_keyfile": options.keyfile,
        "ssl_cert_reqs": "required",
        "ssl_check_hostname": True,  # redis-py before 6.0 does not by itself
    }
