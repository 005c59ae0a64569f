"""Messages of Amazon SQS: kombu's envelope, as readable as it can be, and the bare texts of everybody else."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from qbridge_core.backend import meta_int
from qbridge_kombu.protocol.headers import is_copy, was_handed_back, was_suspected
from qbridge_kombu.protocol.messages import CONTENT_ENCODING, CONTENT_TYPE, Outgoing, Received

_PERSISTENT: Final = 2
_BASE64: Final = "base64"
_RECEIVED: Final = "ApproximateReceiveCount"
_SENT: Final = "SentTimestamp"
# What the service refuses in a text, and what a JSON text may not have as it is.
_NO_TEXT: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")
# Written anew into each message, or only meant for the sending of the one that had it.
_NOT_KEPT: Final = {"delivery_tag", "delivery_info", "body_encoding", "DelaySeconds", "delay_seconds"}
_ENVELOPE_IN_BASE64: Final = "eyJ"  # {"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a message is settled with.

    Attributes:
        receipt: the service's handle.
        received_at: when it was received (``monotonic``): the service ends its lease twelve hours later.
    """

    receipt: str
    received_at: float


def envelope(message: Outgoing, name: str) -> str:
    """The text of a message, which kombu's SQS transport reads too.

    A body that is text stays text: so it is not a third longer, and can be read in the service's console.
    """
    properties = dict(message.properties)
    kind = properties.pop("content_type", None) or CONTENT_TYPE
    encoding = properties.pop("content_encoding", None) or CONTENT_ENCODING
    body, body_encoding = _as_text(message.body)
    properties.setdefault("delivery_mode", _PERSISTENT)
    properties.setdefault("priority", 0)
    properties["delivery_info"] = {"exchange": "", "routing_key": name}
    properties["body_encoding"] = body_encoding
    content = {
        "body": body,
        "content-encoding": encoding,
        "content-type": kind,
        "headers": dict(message.headers),
        "properties": properties,
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), default=str)
    return _NO_TEXT.sub(_escaped, text) if _NO_TEXT.search(text) else text


def received(raw: Mapping[str, Any], now: float) -> Received:
    """What ``ReceiveMessage`` returned: an envelope of kombu's, or anything else, whose text is the body."""
    found = _opened(raw["Body"])
    attributes = _attributes(raw.get("MessageAttributes"))
    if found is None:
        body, headers = raw["Body"].encode("utf-8", "surrogatepass"), attributes
        properties: dict[str, Any] = {"message_id": raw["MessageId"]}
    else:
        content, body = found
        given = content.get("headers")
        headers = {**attributes, **given} if isinstance(given, dict) else attributes
        properties = {name: value for name, value in content["properties"].items() if name not in _NOT_KEPT}
        properties["content_type"] = content.get("content-type")
        properties["content_encoding"] = content.get("content-encoding")
    told = raw.get("Attributes", {})
    again = int(told.get(_RECEIVED, 1)) > 1
    return Received(
        body,
        headers,
        properties,
        Receipt(raw["ReceiptHandle"], now),
        again or was_handed_back(headers),
        again or was_suspected(headers),
        identity=raw["MessageId"],
        sent=0 if is_copy(headers) else meta_int(told, _SENT),  # a copy says itself when its original was sent
    )


def _opened(text: str) -> tuple[dict[str, Any], bytes] | None:
    """An envelope and the body in it; None when the text is none. kombu wraps it into base64, unless told not to."""
    try:
        if text.startswith(_ENVELOPE_IN_BASE64):
            text = base64.b64decode(text, validate=True).decode()
        if not text.startswith("{"):
            return None
        content = json.loads(text)
        properties, body = content["properties"], content["body"]
        if "delivery_info" not in properties or not isinstance(properties, dict) or not isinstance(body, str):
            return None
        if str(properties.get("body_encoding")).lower() == _BASE64:
            return content, base64.b64decode(body, validate=True)
        return content, body.encode("utf-8", "surrogatepass")
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error):
        return None


def _as_text(body: bytes) -> tuple[str, str | None]:
    try:
        return body.decode(), None
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), _BASE64


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found.group()):04x}"


def _attributes(given: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    """Message attributes, as headers."""
    if not given:
        return {}
    return {
        name: base64.b64encode(each["BinaryValue"]).decode() if "BinaryValue" in each else each.get("StringValue", "")
        for name, each in given.items()
    }
