"""A busy reader asks for more before what came is at work: no more is held than was asked for, and nothing is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from integration.redis.helpers import Cli, MakeClient
from qbridge_core import Delivery, Message
from qbridge_redis import RedisClient
from support.brokers import RedisBroker, redis_command
from support.wait import wait_for

ASKED = 100
HALF = ASKED // 2
COUNT = 1_000


def _busy(client: RedisClient, queue: str, count: int = COUNT) -> list[Delivery]:
    """Have so many messages in the queue, and take until more was asked for than has been returned."""
    client.publish_many(queue, [Message(b"%d" % number) for number in range(count)])
    client.subscribe(queue, ASKED)
    taken = client.receive(queue, ASKED, 5.0)
    while len(batch := client.receive(queue, ASKED, 5.0)) == ASKED:  # on a busy machine it comes too late for halves
        taken += batch
    assert len(batch) == HALF
    return taken + batch


def _bodies(deliveries: Sequence[Delivery]) -> list[int]:
    return [int(delivery.body) for delivery in deliveries]


def _all_of(client: RedisClient, queue: str, count: int) -> list[Delivery]:
    """Take so many messages and acknowledge them."""
    taken: list[Delivery] = []
    while len(taken) < count:
        batch = client.receive(queue, ASKED, 5.0)
        assert batch, f"{count - len(taken)} messages do not come"
        for delivery in batch:
            client.ack(delivery)
        taken += batch
    return taken


def _pending(cli: Cli, queue: str) -> int:
    return cli("XPENDING", queue, "qbridge")[0]  # type: ignore[index,return-value]


def _connections(cli: Cli, client: RedisClient, queue: str) -> list[str]:
    """The addresses from which a client reads and acknowledges."""
    lines = str(cli("CLIENT", "LIST")).splitlines()
    fields = [dict(pair.split("=", 1) for pair in line.split() if "=" in pair) for line in lines]
    assert client._nodes is not None
    name = f"qbridge:{client._nodes.node(queue).context.consumer}"
    return [each["addr"] for each in fields if each["name"] == name]


def test_no_more_is_held_than_was_asked_for(client: RedisClient, cli: Cli, queue: str) -> None:
    """What a call returns and what is under way by then is together what the call asked for."""
    held = len(_busy(client, queue))
    assert _pending(cli, queue) == held + HALF


def test_a_single_call_gets_all_that_it_asks_for(client: RedisClient, queue: str) -> None:
    """Halves are for those who come again at once."""
    client.publish_many(queue, [Message(b"x") for _ in range(ASKED)])
    client.subscribe(queue, ASKED)
    assert len(client.receive(queue, ASKED, 5.0)) == ASKED


def test_who_does_not_subscribe_reads_nothing_ahead(client: RedisClient, cli: Cli, queue: str) -> None:
    """Nobody would be told when such a client stops to receive."""
    client.publish_many(queue, [Message(b"x") for _ in range(400)])
    batches = [client.receive(queue, ASKED, 5.0) for _ in range(3)]
    assert [len(batch) for batch in batches] == [ASKED] * 3
    assert _pending(cli, queue) == 3 * ASKED


def test_g1_each_message_comes_once_and_in_order(client: RedisClient, cli: Cli, queue: str) -> None:
    """Through many reads that were sent ahead, to the last message; and all are acknowledged."""
    deliveries = _busy(client, queue, 3000)
    for delivery in deliveries:
        client.ack(delivery)
    deliveries += _all_of(client, queue, 3000 - len(deliveries))
    assert _bodies(deliveries) == list(range(3000))
    assert client.flush()
    assert (cli("XLEN", queue), _pending(cli, queue)) == (0, 0)


def test_who_asks_for_less_now_gets_no_more(client: RedisClient, queue: str) -> None:
    """What has come beyond it waits for the next calls."""
    held = len(_busy(client, queue))
    few = client.receive(queue, 5, 5.0)
    rest = client.receive(queue, HALF, 0.0)
    assert _bodies(few) == list(range(held, held + 5))
    assert _bodies(rest) == list(range(held + 5, held + HALF))


def test_g4_acknowledgements_are_confirmed_though_nobody_receives(client: RedisClient, cli: Cli, queue: str) -> None:
    """Those that went with a read that was sent ahead are done, and known to be, when nobody comes for its reply."""
    held = _busy(client, queue)
    for delivery in held:
        client.ack(delivery)
    third = client.receive(queue, ASKED, 5.0)  # takes them along
    assert client.flush(0.0)
    assert cli("XLEN", queue) == COUNT - len(held)
    assert len(third) == HALF


def test_g6_what_nobody_comes_for_goes_to_others(client: RedisClient, make_client: MakeClient, queue: str) -> None:
    """When tasks take longer now, others get what was read ahead, as if it had never been away."""
    held = _busy(client, queue)
    found = _all_of(make_client(lease=1.0), queue, COUNT - len(held))
    assert sorted(_bodies(found)) == list(range(len(held), COUNT))
    assert not any(delivery.suspected or delivery.crashes or delivery.attempts for delivery in found)


def test_g8_unsubscribing_gives_it_back_at_once(client: RedisClient, cli: Cli, queue: str) -> None:
    """A worker that stops leaves nothing behind that it has not got."""
    held = len(_busy(client, queue))
    client.unsubscribe(queue)
    assert _pending(cli, queue) == held
    assert cli("XLEN", queue) == COUNT


def test_g8_disconnecting_gives_it_back(client: RedisClient, make_client: MakeClient, cli: Cli, queue: str) -> None:
    """The next client gets all, and none is taken for one that may have killed a worker."""
    _busy(client, queue)
    client.disconnect()
    assert _pending(cli, queue) == 0
    found = _all_of(make_client(lease=1.0), queue, COUNT)
    assert Counter(_bodies(found)) == Counter(range(COUNT))
    assert not any(delivery.suspected or delivery.crashes for delivery in found)


def test_g1_nothing_is_lost_with_the_connection(client: RedisClient, cli: Cli, queue: str) -> None:
    """What was on its way comes again, once, and what was acknowledged on the way does not."""
    held = _busy(client, queue)
    for delivery in held:
        client.ack(delivery)
    for address in _connections(cli, client, queue):
        cli("CLIENT", "KILL", "ADDR", address)
    rest = _all_of(client, queue, COUNT - len(held))
    assert client.flush()
    assert sorted(_bodies(rest)) == list(range(len(held), COUNT))
    assert (cli("XLEN", queue), _pending(cli, queue)) == (0, 0)


def test_g1_nothing_is_lost_with_the_server(own_client: RedisClient, broker: RedisBroker, queue: str) -> None:
    """A server that is killed while a read is under way has all of it when it is back."""
    held = _busy(own_client, queue)
    broker.kill()
    broker.start()
    rest = _all_of(own_client, queue, COUNT - len(held))
    assert set(_bodies(rest)) == set(range(len(held), COUNT))
    for delivery in held:
        own_client.ack(delivery)
    assert own_client.flush()
    wait_for(lambda: redis_command(broker.url, "XLEN", queue) == 0, 5.0, "something was not acknowledged")


def test_g6_a_silent_server_holds_up_nobody(own_client: RedisClient, broker: RedisBroker, queue: str) -> None:
    """A flush ends in time while the reply of what was sent ahead does not come, and everything comes later."""
    held = _busy(own_client, queue)
    for delivery in held:
        own_client.ack(delivery)
    own_client.receive(queue, ASKED, 5.0)
    broker.suspend()
    try:
        assert not own_client.flush(0.2)
    finally:
        broker.resume()
    assert own_client.flush(5.0)
