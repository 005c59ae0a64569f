"""Connecting, disconnecting, and what happens to calls in between."""

from __future__ import annotations

import math
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit, urlunsplit

import pytest

from qbridge_core import (
    AuthenticationError,
    BrokerURL,
    DeadLetter,
    Delivery,
    DeliveryLostError,
    Message,
    NotConnectedError,
    QueueClient,
    UnknownOptionError,
)
from qbridge_core.backend import monotonic
from qbridge_core.testing.base import Backend, Call, MakeClient, a_failure


class ConnectionTests(Backend):
    """``connect``, ``disconnect``, ``connected``, options."""

    def test_connected_tells_whether_the_client_is_connected(self, client: QueueClient) -> None:
        """``connected`` follows ``connect`` and ``disconnect``, and both may be called twice."""
        assert client.connected
        client.connect()
        assert client.connected
        client.disconnect()
        assert not client.connected
        client.disconnect()
        client.connect()
        assert client.connected

    def test_connecting_twice_leaves_deliveries_alone(self, client: QueueClient, queue: str) -> None:
        """A second ``connect`` changes nothing; ``with`` gives the client, disconnects it, and swallows no error."""
        delivery = self.get_one(client, queue)
        client.connect()
        client.ack(delivery)
        assert client.flush()
        self.assert_empty(client, queue)
        assert client.__enter__() is client
        with pytest.raises(KeyError), client:
            raise KeyError
        assert not client.connected

    def test_g18_calls_on_a_disconnected_client_say_so(self, client: QueueClient, queue: str) -> None:
        """After ``disconnect`` every call raises NotConnectedError instead of waiting or doing nothing."""
        client.send(queue, 1)
        delivery = self.receive_one(client, queue)
        client.disconnect()
        for call in (
            lambda: client.publish(queue, b"x"),
            lambda: client.receive(queue, 1, 300.0),
            lambda: client.receive_any({queue: 1}, 300.0),
            lambda: client.ack(delivery),
            lambda: client.reject(delivery),
            lambda: client.hand_back([delivery]),
            lambda: client.stats(queue),
            lambda: client.declare(queue),
        ):
            refused = Call(call)
            assert refused.ended(self.wait), "a call waits though nobody has called connect"
            with pytest.raises(NotConnectedError):
                refused.result()

    def test_disconnect_ends_a_blocked_receive(self, make_client: MakeClient, client: QueueClient, queue: str) -> None:
        """A ``receive`` that waits in another thread ends when the client is disconnected, and takes nothing more."""
        other = make_client()
        queues = [queue, f"{queue}-2"]
        other.declare(queues[1])
        calls = [Call(partial(client.receive, each, 1, 300.0)) for each in queues]
        assert not any(call.ended(0.1) for call in calls), "receive did not wait for a message"
        self.disconnect_in_time(client)
        other.publish(queues[1], b"later")
        for call in calls:
            assert call.ended(self.wait), "receive still blocks after disconnect"
            assert call.error is None or isinstance(call.error, NotConnectedError)
        assert self.receive_one(other, queues[1]).body == b"later"

    def test_disconnect_leaves_no_thread(self, make_client: MakeClient, queue_name: str) -> None:
        """A disconnected client leaves no thread of its own behind."""
        before = set(threading.enumerate())
        client = make_client()
        client.declare(queue_name)
        client.send(queue_name, 1)
        client.ack(self.receive_one(client, queue_name))
        client.disconnect()
        self.eventually(lambda: not set(threading.enumerate()) - before, message="threads are left after disconnect")

    def test_g18_an_unknown_option_is_an_error_that_names_the_known_ones(self, broker_url: str) -> None:
        """An option that does not exist is refused before anything is connected."""
        options = _Watched({**self.options, "no_such_option": 1})
        call = Call(lambda: self.with_options(options).create_client(broker_url).disconnect())
        assert call.ended(self.wait), "an unknown option hangs"
        if call.error is None and not options.read:
            pytest.skip("create_client does not pass the options on")
        with pytest.raises(UnknownOptionError, match=r"no_such_option.*known options"):
            call.result()

    def test_g18_an_unknown_option_in_the_url_is_an_error_too(self, broker_url: str) -> None:
        """Nobody is to believe that a setting works which is misspelled in a URL."""
        url = f"{broker_url}{'&' if '?' in broker_url else '?'}no_such_option=1"
        call = Call(lambda: self.create_client(url).disconnect())
        assert call.ended(self.wait), "an unknown option hangs"
        with pytest.raises(UnknownOptionError, match="no_such_option"):
            call.result()

    def test_calls_before_connect_say_so(self, broker_url: str, client: QueueClient, queue: str) -> None:
        """A client that was never connected, or no longer is, refuses each call that needs the broker, at once."""
        delivery = self.get_one(client, queue)
        client.disconnect()
        calls: list[Callable[[], object]] = [
            lambda: client.send(queue, 1),
            lambda: client.send_many(queue, [1]),
            lambda: client.publish_many(queue, [Message(b"x")]),
            lambda: client.purge(queue),
            lambda: client.replay(f"{queue}-dead"),
            lambda: client.reject(delivery, requeue=False),
            *_claimed_calls(client, queue),
        ]
        for call in calls:
            with pytest.raises(NotConnectedError):
                call()
        for harmless in (lambda: client.unsubscribe(queue), lambda: client.subscribe(queue, 1), client.flush):
            with suppress(NotConnectedError):
                harmless()
        client.connect()
        self.assert_counts(client, queue, ready=1)

    def test_connecting_again_remembers_the_pairs(self, client: QueueClient, queue: str, dead: str) -> None:
        """What was declared holds for the client's life, over ``disconnect`` and a declaration without the pair."""
        client.disconnect()
        client.connect()
        client.declare(queue)
        client.reject(self.get_one(client, queue), requeue=False)
        assert self.receive_one(client, dead).body == b"x"

    def test_another_pair_takes_the_place_of_the_first(self, client: QueueClient, queue: str, dead: str) -> None:
        """A later declaration with another dead-letter queue creates that, and later rejections go there."""
        other = f"{dead}-2"
        client.declare(queue, other)
        client.publish(other, b"there")
        client.reject(self.get_one(client, queue), requeue=False)
        assert [d.body for d in self.receive_all(client, other, 2)] == [b"there", b"x"]
        self.assert_counts(client, dead, ready=0)

    def test_declaring_creates_the_dead_letter_queue(self, client: QueueClient, queue: str, dead: str) -> None:
        """Both queues of the pair exist when ``declare`` returns."""
        assert queue
        client.publish(dead, b"x")
        assert self.receive_one(client, dead).body == b"x"

    def test_g2_a_delivery_of_the_connection_before_is_not_settled_in_silence(
        self, client: QueueClient, queue: str, dead: str
    ) -> None:
        """After ``disconnect`` and ``connect`` an old delivery is lost, loudly, or its settlement is carried out."""
        for body in (b"acked", b"rejected", b"retried"):
            client.publish(queue, body)
        acked, rejected, retried = sorted(self.receive_all(client, queue, 3), key=lambda delivery: delivery.body)
        client.disconnect()
        client.connect()
        wanted = {b"retried": 1}
        letters = 1
        try:
            client.ack(acked)
        except DeliveryLostError:
            wanted[b"acked"] = 0
        try:
            client.reject(rejected, requeue=False)
        except DeliveryLostError:
            wanted[b"rejected"], letters = 0, 0
        try:
            client.reject(retried, requeue=True, failure=a_failure(queue))
        except DeliveryLostError:
            wanted[b"retried"] = 0
        self.eventually(client.flush)
        found = self.receive_all(client, queue, len(wanted))
        assert {delivery.body: delivery.attempts for delivery in found} == wanted
        for delivery in found:
            client.ack(delivery)
        self.eventually(client.flush)
        self.assert_empty(client, queue, soon=True)
        self.assert_counts(client, dead, ready=letters)

    def test_g8_what_cannot_be_handed_back_keeps_nothing_else(self, client: QueueClient, queue: str) -> None:
        """Of several deliveries one is lost, or is not: the error says so, and the others go back."""
        lost = self.get_one(client, queue)
        client.disconnect()
        client.connect()
        held = self.receive_one(client, queue)
        client.publish(queue, b"y")
        mine = self.receive_one(client, queue)
        wanted = {b"y"}
        try:
            client.hand_back([lost, mine])
        except DeliveryLostError:
            client.ack(held)
        else:
            wanted.add(b"x")  # it was carried out
        assert {delivery.body for delivery in self.receive_all(client, queue, len(wanted))} == wanted

    def test_g17_no_password_shows(
        self, broker_url: str, client: QueueClient, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The password of the URL is neither in the client's repr nor in the error when it is wrong, nor in a log."""
        login = BrokerURL.parse(broker_url)
        if not login.password:
            pytest.skip("the URL has no password")
        assert is_hidden(login.password, repr(client) + str(client), login)
        wrong = "wr0ng-" + uuid.uuid4().hex
        caplog.set_level("DEBUG")
        with pytest.raises(AuthenticationError) as caught:
            self.create_client(with_password(broker_url, wrong)).disconnect()
        shown = "".join(traceback.format_exception(caught.value))
        assert wrong not in shown
        assert wrong not in caplog.text

    def test_what_a_client_says_of_itself_makes_sense(self, broker_url: str, client: QueueClient) -> None:
        """What its broker is and where, without the password; how long its calls take; whether its threads turn."""
        assert repr(client)
        assert isinstance(client.system, str)
        assert client.system
        host, port = client.server or ("any", None)
        assert (type(host), type(port)) in ((str, int), (str, type(None)))
        login = BrokerURL.parse(broker_url)
        assert not login.password or is_hidden(login.password, str(host), login)
        assert 0 <= client.patience < math.inf
        now = monotonic()
        assert [each for pulse in client.pulses() if (each := pulse.stalled(now)).seconds > self.wait] == []

    def get_one(self, client: QueueClient, queue: str) -> Delivery:
        """Publish a message and receive it."""
        client.publish(queue, b"x")
        return self.receive_one(client, queue)


def _claimed_calls(client: QueueClient, queue: str) -> list[Callable[[], object]]:
    """Calls that need the broker, of those that a client has only where it claims them."""
    can, dead = client.capabilities, f"{queue}-dead"
    letter = DeadLetter.from_headers(b"x", {}, {})
    calls: dict[bool, list[Callable[[], object]]] = {False: [], True: []}
    calls[can.browse] += [lambda: client.dead_letters(dead)]
    calls[can.diagnoses] += [lambda: client.diagnose([queue])]
    calls[can.letters] += [
        lambda: client.delete_letters(dead, letters=["1-1"]),
        lambda: client.replay(dead, letters=["1-1"]),
    ]
    calls[can.imports] += [lambda: client.import_letters(dead, [letter])]
    calls[can.pause] += [lambda: client.pause(queue), lambda: client.resume(queue), lambda: client.paused([queue])]
    calls[can.purge_delayed] += [lambda: client.purge(queue, delayed=True)]
    calls[can.browse_delayed] += [
        lambda: client.delayed(queue),
        lambda: client.release_delayed(queue),
        lambda: client.delete_delayed(queue, messages=["1-1"]),
    ]
    return calls[True]


class _Watched(Mapping[str, object]):
    """Options that know whether somebody has read them."""

    def __init__(self, options: Mapping[str, object]) -> None:
        self._options = options
        self.read = False

    def __getitem__(self, name: str) -> object:
        self.read = True
        return self._options[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)


def is_hidden(password: str, text: str, login: BrokerURL) -> bool:
    """Whether a text shows no password; one that is the user's name too counts only where a password stands."""
    mark = f":{password}@" if password == login.username or len(password) < 6 else password
    return mark not in text


def with_password(url: str, password: str) -> str:
    """The URL with another password."""
    parts = urlsplit(url)
    login, _, address = parts.netloc.rpartition("@")
    return urlunsplit(parts._replace(netloc=f"{login.partition(':')[0]}:{password}@{address}"))
