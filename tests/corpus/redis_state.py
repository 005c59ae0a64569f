"""Everything that a Redis holds, with redis-py: read for a recording, and put back raw."""

from __future__ import annotations

from typing import Any

import redis

from corpus import texts


def read_keys(url: str) -> dict[str, Any]:
    """All keys of a server; entries that a consumer holds with the consumer and their age."""
    client = redis.Redis.from_url(url)
    seconds, microseconds = client.execute_command("TIME")
    keys = {key.decode(): _read_key(client, key) for key in sorted(client.keys())}
    client.close()
    return {"time_us": int(seconds) * 1_000_000 + int(microseconds), "keys": keys}


def _read_key(client: redis.Redis, key: bytes) -> dict[str, Any]:
    kind = client.type(key).decode()
    assert client.pttl(key) == -1, "a key that expires"
    if kind == "zset":
        members = client.zrange(key, 0, -1, withscores=True)
        return {"type": kind, "members": [[texts.dump(member), f"{score:.0f}"] for member, score in members]}
    assert kind == "stream", f"{key!r} is a {kind}, which this program does not know"
    return {"type": kind, "entries": _read_entries(client, key), "groups": _read_groups(client, key)}


def _read_entries(client: redis.Redis, key: bytes) -> list[Any]:
    # redis-py would make a dictionary of the fields; their order, and one that is there twice, are part of the entry.
    client.set_response_callback("XRANGE", lambda reply, **_: reply)
    rows = client.execute_command("XRANGE", key, "-", "+")
    return [[entry_id.decode(), [texts.dump(part) for part in fields]] for entry_id, fields in rows]


def _read_groups(client: redis.Redis, key: bytes) -> list[dict[str, Any]]:
    groups = []
    for group in client.xinfo_groups(key):
        name = group["name"]
        pending = client.xpending_range(key, name, "-", "+", 10_000)
        groups.append(
            {
                "name": name.decode(),
                "last_delivered": group["last-delivered-id"].decode(),
                "consumers": sorted(row["name"].decode() for row in client.xinfo_consumers(key, name)),
                "pending": [
                    [
                        row["message_id"].decode(),
                        row["consumer"].decode(),
                        row["time_since_delivered"],
                        row["times_delivered"],
                    ]
                    for row in pending
                ],
            }
        )
    return groups


def restore(url: str, record: dict[str, Any], queues: tuple[str, ...], token: str) -> None:
    """Put the named queues of a recording into a server, under names with the token, as if it had been recorded now."""
    client = redis.Redis.from_url(url)
    seconds, microseconds = client.execute_command("TIME")
    later = int(seconds) * 1_000_000 + int(microseconds) - record["time_us"]
    for key, value in record["keys"].items():
        if _belongs(key, queues):
            name = key.replace(texts.RECORDED_AS.decode(), token)
            if value["type"] == "zset":
                for member, score in value["members"]:
                    client.zadd(name, {_own(member, token): int(score) + later})
            else:
                _restore_stream(client, name, value, token)
    client.close()


def _belongs(key: str, queues: tuple[str, ...]) -> bool:
    return any(key == queue or key in (f"{queue}:delayed", f"{queue}.suspects") for queue in queues)


def _own(part: str | dict[str, str], token: str) -> bytes:
    return texts.load(part).replace(texts.RECORDED_AS, token.encode())


def _restore_stream(client: redis.Redis, key: str, value: dict[str, Any], token: str) -> None:
    for group in value["groups"]:
        client.xgroup_create(key, group["name"], "0", mkstream=True)
    for entry_id, fields in value["entries"]:
        client.execute_command("XADD", key, entry_id, *(_own(part, token) for part in fields))
    for group in value["groups"]:
        client.xgroup_setid(key, group["name"], group["last_delivered"])
        for consumer in group["consumers"]:
            client.xgroup_createconsumer(key, group["name"], consumer)
        for entry_id, consumer, idle, times in group["pending"]:
            client.xclaim(key, group["name"], consumer, 0, [entry_id], idle=idle, retrycount=times, force=True)
