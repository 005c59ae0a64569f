"""Everything that a RabbitMQ holds, with pika and rabbitmqctl: read for a recording, and put back raw."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any, Final

import pika
from pika.adapters.blocking_connection import BlockingChannel

from corpus import texts

_COUNT: Final = b"\x10x-delivery-countl"  # name and type; the number has eight bytes


class RawProperties(pika.BasicProperties):
    """The properties of a message as they are on the wire, whatever types their headers have."""

    def __init__(self, raw: bytes) -> None:
        super().__init__()
        self._raw = raw

    def encode(self) -> list[bytes]:
        """What pika sends."""
        return [self._raw]


def read_queues(rabbitmqctl: Callable[..., str]) -> dict[str, Any]:
    """The queues, exchanges and bindings that somebody declared."""
    told = json.loads(rabbitmqctl("export_definitions", "-", "--format", "json"))
    return {
        "queues": [
            {"name": queue["name"], "durable": queue["durable"], "arguments": queue["arguments"]}
            for queue in sorted(told["queues"], key=lambda queue: str(queue["name"]))
        ],
        "exchanges": [
            {"name": exchange["name"], "type": exchange["type"], "durable": exchange["durable"]}
            for exchange in sorted(told["exchanges"], key=lambda exchange: str(exchange["name"]))
        ],
        "bindings": [
            {name: binding[name] for name in ("source", "destination", "destination_type", "routing_key")}
            for binding in told["bindings"]
        ],
    }


def read_messages(url: str, queue: str) -> list[dict[str, Any]]:
    """The messages of a queue, which keeps them."""
    raw_of = _keep_raw_properties()
    messages = []
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    while (got := channel.basic_get(queue))[0] is not None:
        method, properties, body = got
        messages.append(
            {
                "exchange": method.exchange,
                "routing_key": method.routing_key,
                "redelivered": method.redelivered,
                "body": texts.dump(body),
                "headers": json.loads(json.dumps(properties.headers, default=str)),
                "properties": base64.b64encode(_without_count(raw_of(properties))).decode(),
            }
        )
    connection.close()
    return messages


def _keep_raw_properties() -> Callable[[pika.BasicProperties], bytes]:
    """Have pika keep what it decodes."""
    decode = pika.BasicProperties.decode

    def keeping(self: Any, encoded: bytes, offset: int = 0) -> Any:
        self.raw = bytes(encoded[offset:])
        return decode(self, encoded, offset)

    if not hasattr(pika.BasicProperties, "raw"):
        pika.BasicProperties.raw = b""
        pika.BasicProperties.decode = keeping
    return lambda properties: bytes(properties.raw)


def _without_count(raw: bytes) -> bytes:
    """The properties without the header that a quorum queue adds when it delivers: it would be there twice."""
    start = raw.find(_COUNT)
    if start < 0:
        return raw
    end = start + len(_COUNT) + 8
    table = 2  # behind the flags, and two short strings where the flags say so
    for flag in (0x80, 0x40):
        table += 1 + raw[table] if raw[0] & flag else 0
    length = int.from_bytes(raw[table : table + 4], "big") - (end - start)
    return raw[:table] + length.to_bytes(4, "big") + raw[table + 4 : start] + raw[end:]


def restore(url: str, record: dict[str, Any], queues: tuple[str, ...], token: str) -> None:
    """Put the named queues of a recording, with side and delay queues, into a server, under names with the token."""
    record = json.loads(json.dumps(record).replace(texts.RECORDED_AS.decode(), token))
    queues = tuple(name.replace(texts.RECORDED_AS.decode(), token) for name in queues)
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    wanted = [queue for queue in record["queues"] if _belongs(queue["name"], queues)]
    for queue in wanted:
        channel.queue_declare(queue["name"], durable=queue["durable"], arguments=queue["arguments"])
    for exchange in record["exchanges"]:
        if _belongs(exchange["name"], queues):
            channel.exchange_declare(exchange["name"], exchange["type"], durable=exchange["durable"])
    for binding in record["bindings"]:
        if binding["source"] and _belongs(binding["destination"], queues):
            _bind(channel, binding)
    for queue in wanted:
        messages = record["messages"].get(queue["name"], [])
        _publish(channel, [message for message in messages if message["redelivered"]], token)
        if any(message["redelivered"] for message in messages):
            _have_it_redelivered(connection, queue["name"])
        _publish(channel, [message for message in messages if not message["redelivered"]], token)
    connection.close()


def _belongs(name: str, queues: tuple[str, ...]) -> bool:
    return any(name == queue or name.startswith((f"{queue}.qb.", f"{queue}.suspects")) for queue in queues)


def _bind(channel: BlockingChannel, binding: dict[str, str]) -> None:
    bind = channel.queue_bind if binding["destination_type"] == "queue" else channel.exchange_bind
    bind(binding["destination"], binding["source"], binding["routing_key"])


def _publish(channel: BlockingChannel, messages: list[dict[str, Any]], token: str) -> None:
    for message in messages:
        raw = base64.b64decode(message["properties"]).replace(texts.RECORDED_AS, token.encode())
        body = texts.load(message["body"])
        channel.basic_publish(message["exchange"], message["routing_key"], body, RawProperties(raw), mandatory=True)


def _have_it_redelivered(connection: pika.BlockingConnection, queue: str) -> None:
    """Do what a worker does that dies: take all messages and leave."""
    channel = connection.channel()
    while channel.basic_get(queue)[0] is not None:
        pass
    channel.close()
