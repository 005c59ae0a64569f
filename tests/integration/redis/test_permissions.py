"""The ACL rules that docs/production.md gives to a producer, a worker, an observer and an operator."""

from __future__ import annotations

import contextlib

import pytest

from qbridge_core import QBridgeError, QueueUse, connect
from support.brokers import RedisBroker
from support.rights import acl_rights
from support.roles import DEAD, QUEUE, ROLES, prepare

TABLE = acl_rights()


class Desk:
    """Users of a server with nothing else on it."""

    def __init__(self, server: RedisBroker) -> None:
        self._server = server

    def user(self, role: str, *rules: str) -> str:
        """Empty the server, let happen what has happened before, and return the URL of a new user with these rules."""
        self._server.cli("FLUSHALL")
        prepare(self._server.url)
        if role == "worker":  # a task whose worker has died
            self._server.cli("XREADGROUP", "GROUP", "qbridge", "gone", "COUNT", 1, "STREAMS", QUEUE, ">")
        self._server.cli("ACL", "SETUSER", "somebody", "reset", "on", ">x", *rules)
        self._server.cli("ACL", "LOG", "RESET")
        self._server.cli("SCRIPT", "FLUSH")
        return f"{self._server.url.replace('//', '//somebody:x@')}?lease=0.5"

    def refused(self) -> set[str]:
        """The commands and keys that the server has refused to the user (redis.io/docs/latest/commands/acl-log)."""
        entries = self._server.cli("ACL", "LOG")
        assert isinstance(entries, list)
        found: set[str] = set()
        for entry in entries:
            assert isinstance(entry, list)
            fields = dict(zip(map(str, entry[::2]), map(str, entry[1::2]), strict=True))
            found.add(f"{'~' if fields['reason'] == 'key' else '+'}{fields['object'].partition('|')[0]}")
        return found


@pytest.fixture
def desk(private_redis: RedisBroker) -> Desk:
    """Users of a server of this test."""
    return Desk(private_redis)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_can_do_its_job_with_what_the_page_gives_it(desk: Desk, role: str) -> None:
    """With these rules and no others."""
    ROLES[role](desk.user(role, *TABLE[role]), lambda: False)


@pytest.mark.parametrize("role", ROLES)
def test_a_role_cannot_do_its_job_with_one_right_less(desk: Desk, role: str) -> None:
    """The server refuses just what was taken away: the page gives nothing away."""
    for taken in TABLE[role]:
        url = desk.user(role, *(rule for rule in TABLE[role] if rule != taken))

        def is_refused(taken: str = taken) -> bool:
            return any(refused.startswith(taken.rstrip("*")) for refused in desk.refused())

        with contextlib.suppress(QBridgeError):
            ROLES[role](url, is_refused)
        assert is_refused(), f"{role} does not need {taken}; refused: {desk.refused()}"


def test_the_doctor_finds_that_a_worker_has_what_it_needs(desk: Desk) -> None:
    """What the page gives to a worker is enough for ``qbridge doctor``."""
    with connect(desk.user("worker", *TABLE["worker"])) as client:
        findings = client.diagnose([QueueUse(QUEUE, DEAD)])
    assert [each.status for each in findings if each.check == "permissions"] == ["ok"]
