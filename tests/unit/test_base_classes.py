"""What the classes of the distributions are derived from.

A class of somebody else's has names that the next release may add: in Python 3.13 ``threading.Thread`` got a
``_handle``, and a subclass that had a method of this name was broken.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import logging
import pkgutil
from abc import ABC
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sized
from itertools import chain
from types import ModuleType
from typing import Generic, Protocol, is_typeddict
from urllib.request import BaseHandler, HTTPRedirectHandler

import click
import pika
import pytest
from hypothesis.stateful import RuleBasedStateMachine
from kombu.transport import SQS
from pika.adapters.utils.selector_ioloop_adapter import SelectorIOServicesAdapter
from prometheus_client.registry import Collector

import qbridge_core
import qbridge_kombu
import qbridge_memory
import qbridge_pytest
import qbridge_rabbitmq
import qbridge_redis

PACKAGES = (qbridge_core, qbridge_kombu, qbridge_memory, qbridge_pytest, qbridge_rabbitmq, qbridge_redis)
# Made to be derived from, and their names are documented.
OPEN: set[object] = {
    object, tuple, str, ABC, Generic, Protocol, enum.Enum, enum.StrEnum, enum.ReprEnum,
    Mapping, Collection, Container, Iterable, Sized, BaseHandler, HTTPRedirectHandler,
    click.Command, click.Group, click.ParamType, Collector, logging.Formatter, RuleBasedStateMachine,
}  # fmt: skip
FRAMEWORKS = {"django", "django_tasks"}
"""Whose classes are made to be derived from by whoever extends them."""
# What is derived from pika's and kombu's classes on purpose, with everything that is defined there.
OVERRIDDEN = {
    pika.SelectConnection: {"_on_data_available", "_read_frame", "_output_marshaled_frames"},
    pika.BasicProperties: {"encode"},
    SelectorIOServicesAdapter: {"connect_socket", "create_streaming_connection", "getaddrinfo"},
    SQS.Channel: {"_update_queue_cache", "new_sqs_client"},
    SQS.Transport: {"Channel"},
}


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """The package and all that is in it, but for the programs, which would run."""
    yield package
    for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def ours(kind: type) -> bool:
    """True for a class of the distributions."""
    return kind.__module__.partition(".")[0] in {package.__name__ for package in PACKAGES}


def of_framework(kind: type) -> bool:
    """True for a class that a framework shows to those who extend it."""
    return kind.__module__.partition(".")[0] in FRAMEWORKS


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.__name__))
def test_no_class_is_derived_from_one_whose_names_may_change(package: ModuleType) -> None:
    """Threads, executors, connections, futures and handlers are held; pika's classes are extended where it is meant."""
    for module in modules(package):
        for kind in vars(module).values():
            # Of what stands for something that is made later, as the settings of Django, only the type may be asked.
            if not issubclass(type(kind), type) or kind.__module__ != module.__name__ or is_typeddict(kind):
                continue
            for base in kind.__mro__:
                if ours(base) or base in OPEN or issubclass(base, BaseException) or of_framework(base):
                    continue
                derived = [known for known in OVERRIDDEN if issubclass(known, base)]
                assert derived, f"{kind} is derived from {base}"


@pytest.mark.parametrize("base", OVERRIDDEN, ids=lambda base: str(base.__name__))
def test_only_what_is_meant_of_a_driver_is_overridden(base: type) -> None:
    """A class that extends one of a driver's shares no name with it but those that it overrides on purpose."""
    for module in chain(modules(qbridge_rabbitmq), modules(qbridge_kombu)):
        for kind in vars(module).values():
            if inspect.isclass(kind) and issubclass(kind, base) and ours(kind):
                own = {name for name in vars(kind) if not name.startswith(("__", "_abc"))}
                assert own & set(dir(base)) <= OVERRIDDEN[base]
