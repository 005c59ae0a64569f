"""How each kind of fault is done, and undone."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from chaos.plan import Fault, Strike
from chaos.supervisor import Supervisor
from qbridge_core import QBridgeError, connect
from support.brokers import Broker, RabbitMQBroker, RedisBroker
from support.proxy import TCPProxy
from support.sqs import SQSBroker
from support.wait import wait_for

_START_TIMEOUT = 90.0
_PROBE = "probe"
_KEEPS_UP = 0.02
_MOST_PROBES = 100


@dataclass(frozen=True)
class Victims:
    """What can be broken.

    Attributes:
        is_working: whether the worker process that runs now has begun a task.
    """

    broker: Broker
    proxy: TCPProxy
    supervisor: Supervisor
    is_working: Callable[[], bool]


def strike(victims: Victims, what: Strike) -> None:
    """Do one fault and undo it; return when everything could work again."""
    _HOW[what.fault](victims, what.lasts)


def _cut(victims: Victims, lasts: float) -> None:
    """Reset the connections; for a fault that lasts, also let none in."""
    if lasts:
        victims.proxy.refuse()
    victims.proxy.reset()
    time.sleep(lasts)
    victims.proxy.pass_through()


def _half_open(victims: Victims, lasts: float) -> None:
    """Swallow every byte; then, half of the time, the old connections are dead and otherwise they go on."""
    victims.proxy.blackhole()
    time.sleep(lasts or 0.5)
    if int(lasts * 10) % 2:
        victims.proxy.reset()
    victims.proxy.pass_through()


def _kill_broker(victims: Victims, lasts: float) -> None:
    victims.broker.kill()
    time.sleep(lasts)
    victims.broker.start()


def _restart_broker(victims: Victims, lasts: float) -> None:
    victims.broker.stop()
    time.sleep(lasts)
    victims.broker.start()


def _freeze_broker(victims: Victims, lasts: float) -> None:
    """Stop its process, which keeps its connections and answers nobody, and let it go on."""
    victims.broker.suspend()
    time.sleep(lasts or 0.5)
    victims.broker.resume()


def _terminate_worker(victims: Victims, lasts: float) -> None:
    victims.supervisor.terminate()
    _wait_for_the_next(victims)


def _kill_worker(victims: Victims, lasts: float) -> None:
    if not isinstance(victims.broker, SQSBroker):  # which has no disk
        _let_it_keep_up(victims.broker)
    victims.supervisor.kill()
    _wait_for_the_next(victims)


def _let_it_keep_up(broker: Broker) -> None:
    """Wait until the broker writes at once what it gets, or for some seconds at most.

    While its disk is slow a quorum queue keeps acknowledgements in memory, and drops them with the connection that
    sent them. How many runs that repeats says something about the disk, and nothing about the worker.
    """
    with suppress(QBridgeError), connect(broker.url) as client:  # whatever is wrong there, the worker is killed
        client.declare(_PROBE)
        for _ in range(_MOST_PROBES):
            began = time.monotonic()
            client.send(_PROBE, None)
            if time.monotonic() - began < _KEEPS_UP:
                break
        client.purge(_PROBE)


def _wait_for_the_next(victims: Victims) -> None:
    """Let the next worker get going: one that starts without a broker ends with an error, and is started again."""
    wait_for(victims.is_working, _START_TIMEOUT, "the next worker gets going")


def _alarm(victims: Victims, lasts: float) -> None:
    """Let the broker believe that its memory is used up."""
    broker = victims.broker
    if isinstance(broker, RabbitMQBroker):
        with broker.out_of_memory():
            time.sleep(lasts or 1.5)
    elif isinstance(broker, RedisBroker):
        broker.cli("CONFIG", "SET", "maxmemory", "1mb")  # an empty server uses more
        time.sleep(lasts or 0.5)
        broker.cli("CONFIG", "SET", "maxmemory", "0")


_HOW: dict[Fault, Callable[[Victims, float], None]] = {
    Fault.CUT: _cut,
    Fault.HALF_OPEN: _half_open,
    Fault.BROKER_KILL: _kill_broker,
    Fault.BROKER_RESTART: _restart_broker,
    Fault.WORKER_TERM: _terminate_worker,
    Fault.WORKER_KILL: _kill_worker,
    Fault.ALARM: _alarm,
    Fault.FREEZE: _freeze_broker,
}
