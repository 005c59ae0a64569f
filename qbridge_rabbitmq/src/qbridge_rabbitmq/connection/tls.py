"""TLS: the certificates, read before an attempt to connect, so that a wrong file is an error at once."""

from __future__ import annotations

import ssl

from qbridge_core.backend import ConfigurationError


def tls_context(cafile: str | None, certfile: str | None, keyfile: str | None) -> ssl.SSLContext:
    """What to trust, and what to show.

    Raises:
        ConfigurationError: a file cannot be used.
    """
    for name, path in (("cafile", cafile), ("certfile", certfile), ("keyfile", keyfile)):
        try:
            if path is not None:
                open(path, "rb").close()
        except (OSError, ValueError) as exc:
            raise ConfigurationError(f"option {name}: the file {path!r} cannot be read: {exc}") from exc
    try:
        context = ssl.create_default_context(cafile=cafile)
    except OSError as exc:
        raise ConfigurationError(f"option cafile: {cafile!r} holds no certificate in PEM format") from exc
    try:
        if certfile:
            # Without a password of its own, OpenSSL would ask for one at the terminal.
            context.load_cert_chain(certfile, keyfile, password="")
    except (OSError, ValueError) as exc:
        raise ConfigurationError(
            f"options certfile and keyfile: {certfile!r} and {keyfile or certfile!r} are no "
            f"certificate and its key in PEM format, without a password: {exc}"
        ) from exc
    return context
