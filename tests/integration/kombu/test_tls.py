"""Certificates: that of another server is refused, whatever kombu and the drivers do by default."""

from __future__ import annotations

import queue
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from qbridge_core import QBridgeError, UnknownOptionError, connect

SCHEMES = ["kombu+amqps", "kombu+rediss"]


class Listener:
    """Greets one client after the other with a certificate, and notes what became of it; it speaks nothing else."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.certificate, key = folder / "cert.pem", folder / "key.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-keyout", key),
                *("-out", self.certificate, "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name}"),
            ],
            check=True,
            capture_output=True,
        )
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.certificate, key)
        self._socket = socket.create_server(("localhost", 0))
        self.port = self._socket.getsockname()[1]
        self.greeted: queue.Queue[bool] = queue.Queue()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._socket.accept()
            except OSError:
                return
            with accepted:
                accepted.settimeout(10)
                try:
                    self._context.wrap_socket(accepted, server_side=True).close()
                except OSError:
                    self.greeted.put(False)
                else:
                    self.greeted.put(True)

    def close(self) -> None:
        """Stop."""
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture(params=["localhost", "elsewhere.example"])
def listener(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    """A server whose certificate, for one name, is trusted by this system."""
    listener = Listener(tmp_path, request.param)
    monkeypatch.setenv("SSL_CERT_FILE", str(listener.certificate))
    yield listener
    listener.close()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_g17_the_name_in_a_certificate_is_that_of_the_host(listener: Listener, scheme: str) -> None:
    """One that was given to somebody else shows nothing, though it may be trusted otherwise."""
    with pytest.raises(QBridgeError) as caught:
        connect(f"{scheme}://u:p@localhost:{listener.port}", allow_loss=True)
    assert listener.greeted.get(timeout=10) == (listener.name == "localhost")
    assert ("Hostname mismatch" in str(caught.value)) == (listener.name != "localhost")


@pytest.mark.parametrize("name", ["ssl", "ssl_cert_reqs", "ssl_check_hostname"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_g17_not_to_check_certificates_is_refused(scheme: str, name: str) -> None:
    """`?ssl_cert_reqs=none`, which Celery's URLs have, is answered with the reason."""
    with pytest.raises(UnknownOptionError, match=f"{name}: certificates are always checked.* protects nobody"):
        connect(f"{scheme}://localhost?{name}=none", allow_loss=True)
