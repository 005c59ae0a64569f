"""What type checkers make of the fixture for pytest; never run."""

from __future__ import annotations

from datetime import timedelta
from typing import assert_type

from qbridge_core import App, ConstantBackoff, DeadLetter, RunReport, TaskManager
from qbridge_pytest import Kit, Sent, Step

app = App()


@app.task(queue="emails")
def send_mail(to: str) -> None:
    """A task."""


def test_it(qbridge: Kit) -> None:
    """Its methods know their arguments, and those of managers are those of production."""
    made = qbridge.manager(print, "charges", "charges.dead", max_retries=2, backoff=ConstantBackoff(60))
    assert_type(made, TaskManager)
    qbridge.manager(print, "charges")  # type: ignore[call-arg]
    qbridge.manager(print, "charges", "charges.dead", max_retries="2")  # type: ignore[arg-type]
    qbridge.open(app)
    assert_type(qbridge.run(ahead="1h"), RunReport)
    qbridge.run(10, ahead=timedelta(hours=1))
    qbridge.advance(90)
    assert_type(qbridge.sent(send_mail, payload={"to": "ann"}, headers={"a": "b"}, delay="1h"), list[Sent])
    qbridge.not_sent("emails", payload=7, task_id="t")
    qbridge.sent(7)  # type: ignore[arg-type]
    assert_type(qbridge.letters(send_mail), list[DeadLetter])
    assert_type(qbridge.history("t"), list[Step])
