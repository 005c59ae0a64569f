"""The permissions that docs/production.md gives to a producer, a worker, an observer and an operator."""

from __future__ import annotations

import contextlib
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import pika
import pytest

from integration.rabbitmq.managed import ManagedRabbitMQ
from qbridge_core import QBridgeError, QueueUse, connect
from support.rights import AMQPRights, amqp_rights
from support.roles import DEAD, FAILS, QUEUE, ROLES, prepare
from support.wait import wait_for

TABLE = amqp_rights()
REFUSED = re.compile(
    r"caused a channel exception access_refused: access to \w+ '[^']*' in vhost '[^']*' refused for user '([^']*)'"
)


class Desk:
    """Virtual hosts of a test, each with a user who has some rights there."""

    def __init__(self, node: ManagedRabbitMQ, name: str) -> None:
        self._node = node
        self._name = name
        self._vhosts: list[str] = []

    def user(self, role: str, rights: AMQPRights) -> str:
        """Make a virtual host, let happen what has happened before, and return the URL of the user."""
        vhost = f"{self._name}-{len(self._vhosts)}"
        self._vhosts.append(vhost)
        everything = self._node.add_vhost(vhost)
        if role == "worker":
            leave_a_suspect(everything)
        else:
            prepare(everything)
            delete_queues(everything, "qbridge.pauses")  # which each client makes that is the first to look for pauses
        self._node.api("PUT", f"users/{vhost}", {"password": "x", "tags": ""})
        self._node.api("PUT", f"permissions/{quote(vhost)}/{vhost}", rights.expressions())
        return self._node.url_for(f"{vhost}:x", vhost)

    def refused(self) -> set[str]:
        """The users to whom the broker has refused something, by its log, which is some seconds behind."""
        logs = (path.read_text(errors="replace") for path in Path(self._node.base_dir, "log").glob("*.log"))
        return {user for text in logs for user in REFUSED.findall(text)}


def leave_a_suspect(url: str) -> None:
    """A task whose worker has died, in a queue that has nothing of QBridge's beside it yet."""
    with connect(url) as client:
        client.declare(QUEUE, DEAD)
        client.send(QUEUE, FAILS)
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    wait_for(lambda: channel.basic_get(QUEUE)[0], message="the task is there")
    connection.close()
    delete_queues(url, DEAD)


def delete_queues(url: str, *names: str) -> None:
    """Delete them where they exist."""
    with closing(pika.BlockingConnection(pika.URLParameters(url))) as connection:
        for name in names:
            connection.channel().queue_delete(name)


@pytest.fixture
def desk(managed: ManagedRabbitMQ, unique_name: str) -> Desk:
    """Users and virtual hosts of this test. They end with the node: deleting them takes longer."""
    return Desk(managed, unique_name)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_can_do_its_job_with_what_the_page_gives_it(desk: Desk, role: str) -> None:
    """With these permissions and no others."""
    ROLES[role](desk.user(role, TABLE[role]), lambda: False)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_cannot_do_its_job_with_one_permission_less(desk: Desk, role: str) -> None:
    """The broker refuses something to each user who lacks one of them: the page gives nothing away."""
    users = {lacking: desk.user(role, rights) for lacking, rights in TABLE[role].with_one_less()}

    def attempt(url: str) -> None:
        with contextlib.suppress(QBridgeError):
            ROLES[role](url, lambda: name_of(url) in desk.refused())

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(attempt, users.values()))
    names = {name_of(url): lacking for lacking, url in users.items()}
    with contextlib.suppress(AssertionError):
        wait_for(lambda: names.keys() <= desk.refused(), 20.0, interval=0.2)
    assert not [lacking for user, lacking in names.items() if user not in desk.refused()], "not needed"


def name_of(url: str) -> str:
    """The user of a URL."""
    return url.partition("//")[2].partition(":")[0]


def test_the_doctor_finds_that_a_worker_has_what_it_needs(desk: Desk) -> None:
    """What the page gives to a worker is enough for ``qbridge doctor``."""
    with connect(desk.user("worker", TABLE["worker"])) as client:
        findings = client.diagnose([QueueUse(QUEUE, DEAD)])
    assert [each.status for each in findings if each.check in {"permissions", "publishing"}] == ["ok", "ok"]
