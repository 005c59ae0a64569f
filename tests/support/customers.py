"""Those that a shop talks to: a web server of a customer's, and a server for mails."""

from __future__ import annotations

import json
import threading
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any


class Customer:
    """A web server that answers with these codes, one after the other, and with the last one from then on."""

    def __init__(self, *codes: int) -> None:
        told: list[tuple[str, Any]] = []
        self.told = told
        answers = list(codes)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                told.append((self.headers["Idempotency-Key"], json.loads(body)))
                self.send_response(answers.pop(0) if len(answers) > 1 else answers[0])
                self.send_header("Retry-After", "0.1")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


class MailServer:
    """Takes all mails by SMTP, and keeps them."""

    def __init__(self) -> None:
        mails: list[EmailMessage] = []
        self.mails = mails

        class Handler(StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"220 ready\r\n")
                for line in self.rfile:
                    command = line[:4].upper()
                    if command == b"DATA":
                        self.wfile.write(b"354 go on\r\n")
                        text = b"".join(iter(self.rfile.readline, b".\r\n"))
                        mails.append(message_from_bytes(text, EmailMessage, policy=default))
                    if command == b"QUIT":
                        self.wfile.write(b"221 bye\r\n")
                        return
                    self.wfile.write(b"250 well\r\n")

        self._server = ThreadingTCPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        host, port = self._server.server_address[:2]
        self.address = f"{host!s}:{port}"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
