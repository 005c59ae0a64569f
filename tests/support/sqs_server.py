"""moto's server for Amazon SQS, as a process. Usage: ``python sqs_server.py PORT``.

moto answers each request in a thread of its own and changes its lists without a lock, so that a message can go to two
consumers, and one that is sent while another is deleted can vanish. Here requests come one after the other, and one
that waits for a message lets the others pass. And moto counts all messages of a queue for each one that it sends or
hands out, with a clock that takes 15 µs to read: a tenth of a second a message in a queue of a thousand. It checks no
signature.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.core import responses
from moto.server import create_backend_app
from moto.sqs import models
from moto.sqs.models import Message, Queue, SQSBackend
from werkzeug.serving import WSGIRequestHandler, run_simple

_turn = threading.RLock()
_arrived = threading.Condition(_turn)
_CHANGES = (
    "change_message_visibility",
    "change_message_visibility_batch",
    "create_queue",
    "delete_message",
    "delete_message_batch",
    "delete_queue",
    "purge_queue",
    "receive_message",
    "send_message",
    "send_message_batch",
)
_LOOK_EVERY = 0.05
"""Seconds; a delay and a lease end without anybody who rings."""


def _in_turn(method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with _arrived:
            result = method(*args, **kwargs)
            _arrived.notify_all()
            return result

    return call


def _wait_for_messages(queue: Queue, timeout: int) -> None:
    with _arrived:
        _arrived.wait_for(lambda: queue.messages, timeout=min(timeout, _LOOK_EVERY))


def _is_not_too_old(backend: SQSBackend, queue_name: str, message: Message) -> bool:
    age = time.time() - message.sent_timestamp / 1000
    return bool(age < backend.queues[queue_name].message_retention_period)


class _Signed:
    """The application, for those who have signed with the secret of the access key ``key``; moto lets everybody in."""

    def __init__(self, application: Any) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        signed = re.search(r"Credential=key/\d+/([^/]+)/.*SignedHeaders=([^,]+), *Signature=(\w+)", _header(environ))
        if signed is not None and not self._is_right(environ, *signed.groups()):
            start("403 Forbidden", [("Content-Type", "application/x-amz-json-1.0")])
            return [json.dumps({"__type": "SignatureDoesNotMatch", "message": "The signature is wrong."}).encode()]
        return self._application(environ, start)

    @staticmethod
    def _is_right(environ: dict[str, Any], region: str, names: str, signature: str) -> bool:
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        headers = {name: _header(environ, name) for name in names.split(";")}
        url = f"http://{environ['HTTP_HOST']}{environ['PATH_INFO']}"
        request = AWSRequest(environ["REQUEST_METHOD"], url, headers, body)
        request.context["timestamp"] = _header(environ, "x-amz-date")
        signer = SigV4Auth(Credentials("key", "secret"), "sqs", region)
        text = signer.string_to_sign(request, signer.canonical_request(request))
        return bool(signer.signature(text, request) == signature)


def _header(environ: dict[str, Any], name: str = "authorization") -> str:
    key = name.upper().replace("-", "_")
    return str(environ.get(key if key.startswith("CONTENT_") else f"HTTP_{key}", ""))


def main(port: int) -> None:
    """Serve until the process is ended."""
    for name in _CHANGES:
        setattr(SQSBackend, name, _in_turn(getattr(SQSBackend, name)))
    Queue.wait_for_messages = _wait_for_messages
    SQSBackend.is_message_valid_based_on_retention_period = _is_not_too_old
    models.unix_time_millis = lambda _=None: time.time() * 1000
    models.unix_time = lambda _=None: time.time()
    responses.method_names_from_class = cache(responses.method_names_from_class)
    responses.camelcase_to_underscores = cache(responses.camelcase_to_underscores)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    WSGIRequestHandler.protocol_version = "HTTP/1.1"  # connections stay open, as the service's do
    run_simple("127.0.0.1", port, _Signed(create_backend_app("sqs")), threaded=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
