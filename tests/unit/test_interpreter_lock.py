"""What is done for each message keeps the interpreter's lock: giving it away costs a change of threads for each."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from qbridge_core.contract.message import Message, new_id
from qbridge_rabbitmq.amqp import headers
from qbridge_rabbitmq.state.identity import trace
from qbridge_redis.protocol.fields import encode

pytestmark = pytest.mark.skipif(
    not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="this interpreter has no such lock"
)

TIMES = 10_000  # a lock that is away for less than a microsecond is not always taken
BODY = b"x" * 10_000
PER_MESSAGE: dict[str, Callable[[], object]] = {
    "a message id": new_id,
    "a message": lambda: Message.for_task({"text": BODY.decode()}),
    "RabbitMQ: a mark": headers.new_mark,
    "RabbitMQ: properties": lambda: headers.fresh({"tenant": "7"}, "an-id"),
    "RabbitMQ: the memory of an acknowledged message": lambda: trace(b"", bytes(bytearray(BODY))),
    "Redis: fields": lambda: encode(BODY, {"tenant": "7"}, "an-id"),
}


@pytest.fixture
def turns() -> Iterator[list[None]]:
    """What grows whenever the calling thread gives the lock away: another one waits for it, and is not patient."""
    before, taken, over, began = sys.getswitchinterval(), [], threading.Event(), threading.Event()

    def take() -> None:
        began.set()
        while not over.is_set():
            taken.append(None)
            time.sleep(0)

    sys.setswitchinterval(60.0)  # nobody takes it by force
    other = threading.Thread(target=take, daemon=True)
    other.start()
    began.wait()
    yield taken
    over.set()
    sys.setswitchinterval(before)
    other.join()


@pytest.mark.skipif(not hasattr(os, "getrandom"), reason="other systems have os.urandom only")
@pytest.mark.parametrize("what", PER_MESSAGE)
def test_no_other_thread_takes_its_turn_with_each_message(what: str, turns: list[None]) -> None:
    """A thread that waits for the interpreter's lock does not get it."""
    call = PER_MESSAGE[what]
    call()  # which may import something
    before = len(turns)
    for _ in range(TIMES):
        call()
    assert len(turns) == before


def test_such_a_turn_is_seen(turns: list[None]) -> None:
    """What gives the lock away for each message is found out."""
    before, deadline = len(turns), time.monotonic() + 10.0
    while len(turns) == before and time.monotonic() < deadline:
        os.urandom(16)
    assert len(turns) > before
