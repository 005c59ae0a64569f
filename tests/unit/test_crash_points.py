"""The marker ``qbridge``: a test is run once for each point at which a worker can die."""

from __future__ import annotations

from pathlib import Path

from support.pytest_runs import run

PAYMENTS = """
charged, paid = [], set()

def charge_first(payload):
    if payload["order"] in paid:
        return
    charged.append(payload["order"])
    paid.add(payload["order"])

def charge_once(payload):
    if payload["order"] not in charged:  # as a payment service does that gets a key
        charged.append(payload["order"])
    paid.add(payload["order"])

@pytest.fixture(autouse=True)
def nothing_is_paid():
    charged.clear()
    paid.clear()

"""
TEST = """
@pytest.mark.qbridge(crash_points="all", handler={handler})
def test_an_order_is_charged_once(qbridge):
    qbridge.manager({handler}, "charges", "charges.dead")
    qbridge.client.send("charges", {{"order": 7}}, task_id="order-7")
    qbridge.run()
    assert charged == [7]
"""


def test_a_handler_that_is_not_idempotent_is_found(tmp_path: Path) -> None:
    """Charged first and noted later: what fails is the death in between, and the report shows where that was."""
    output = run(tmp_path, PAYMENTS + TEST.format(handler="charge_first"), "-v", status=1)
    failed = [line for line in output.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1
    assert "test_an_order_is_charged_once[charge_first-line-9]" in failed[0]
    assert "assert [7, 7] == [7]" in output
    story = output.partition("task order-7")[2]
    told = ["received", "crashed before line 9 of charge_first: paid.add(payload[", "received", "succeeded"]
    places = [story.index(told[0]), story.index(told[1]), story.index("received", story.index(told[1]))]
    assert places == sorted(places)
    assert story.index("succeeded") > places[-1]
    assert "before line 7 of charge_first: return: no run came to that point" in output


def test_its_mended_twin_passes_at_all_points(tmp_path: Path) -> None:
    """Without a death, around each call of the broker and at each line; what no run reaches is skipped."""
    output = run(tmp_path, PAYMENTS + TEST.format(handler="charge_once"), "-v")
    for point in ("no-crash", "received", "start", "done", "settled", "charge_once-line-12", "charge_once-line-14"):
        assert f"test_an_order_is_charged_once[{point}] PASSED" in output
    assert "test_an_order_is_charged_once[publish] SKIPPED" in output
    assert "8 passed, 2 skipped" in output


def test_the_tasks_that_a_test_names_are_its_handlers(tmp_path: Path) -> None:
    """And of the points some can be chosen, with -k or in the marker; fixtures are fresh for each."""
    test = """
from shop import app, send_mail

made = []

@pytest.fixture
def number():
    made.append(1)
    return len(made)

@pytest.mark.qbridge(crash_points=["done", "lines"])
def test_mails(qbridge, number):
    send_mail.send("ann@x")
    assert qbridge.run().succeeded == 1
    assert number == len(made)
"""
    output = run(tmp_path, test, "-v", ini="qbridge_app = shop:app")
    for point in ("no-crash", "done", "send_mail-line-9"):
        assert f"test_mails[{point}] PASSED" in output
    assert "test_mails[send_mail-line-10] SKIPPED" in output
    chosen = run(tmp_path, test, "-v", "-k", "line-9", ini="qbridge_app = shop:app")
    assert "1 passed, 3 deselected" in chosen


def test_workers_die_in_runs_of_the_handler_that_is_named(tmp_path: Path) -> None:
    """What ran before it, and made its message, is left alone; of several tasks each has points of its own."""
    test = """
from qbridge_core import App

app = App()
mailed, paid = [], []

@app.task(name="pay", queue="work")
def pay():
    if not paid:
        paid.append(1)
        mail.send()

@app.task(name="mail", queue="work")
def mail():
    mailed.append(1)

def charge(payload):
    mail.send()

def of_one(qbridge):
    mailed.clear()
    paid.clear()
    qbridge.open(app)
    qbridge.manager(charge, "charges", "charges.dead")

@pytest.mark.qbridge(crash_points=["received", "start", "done"], handler=mail)
def test_mail(qbridge):
    of_one(qbridge)
    pay.send()
    qbridge.run()
    assert mailed == [1]

@pytest.mark.qbridge(crash_points=["before publish", "done"])
def test_both(qbridge):
    of_one(qbridge)
    pay.send()
    qbridge.run()
    assert len(qbridge.sent(mail)) == 1

@pytest.mark.qbridge(crash_points=["done"], handler=charge)
def test_charge(qbridge):
    of_one(qbridge)
    pay.send()
    qbridge.client.send("charges", 1, delay=60)
    qbridge.run()
    assert len(qbridge.sent(mail)) == 2
"""
    output = run(tmp_path, test, "-v", status=1)
    failed = [line.split("::")[1].split()[0] for line in output.splitlines() if line.startswith("FAILED")]
    assert failed == ["test_mail[done]", "test_both[pay-before-publish]", "test_charge[done]"]
    assert "no worker of mail died before the handler's message was sent: no run came to that point" in output


def test_lines_of_coroutines_are_points(tmp_path: Path) -> None:
    """A coroutine is left at the line, and what it holds is let go."""
    test = """
import asyncio

seen = []

async def handler(payload):
    try:
        await asyncio.sleep(0)
        seen.append(payload)
    finally:
        seen.append("let go")

@pytest.mark.qbridge(handler=handler)
def test_it(qbridge, request):
    seen.clear()
    qbridge.manager(handler, "jobs", "jobs.dead", max_retries=0)
    qbridge.client.send("jobs", 1)
    assert qbridge.run().succeeded == 1
    if request.node.callspec.id == "handler-line-9":
        assert seen == ["let go", 1, "let go"]
"""
    output = run(tmp_path, test, "-v")
    assert "test_it[handler-line-9] PASSED" in output
    assert "9 passed, 2 skipped" in output


def test_lines_of_what_a_handler_calls_can_be_points(tmp_path: Path) -> None:
    """The marker names where the work is done."""
    test = """
charged = []

def charge(order):
    if order not in charged:
        charged.append(order)

def handler(payload):
    charge(payload)

@pytest.mark.qbridge(crash_points=["lines"], handler=charge)
def test_it(qbridge):
    charged.clear()
    qbridge.manager(handler, "jobs", "jobs.dead")
    qbridge.client.send("jobs", 1)
    qbridge.run()
    assert charged == [1]
"""
    assert "3 passed" in run(tmp_path, test)


def test_lines_of_functions_within_a_handler_are_points(tmp_path: Path) -> None:
    """Of a function, a generator or a lambda in it: the handler's own lines may be no more than the call."""
    test = """
charged, paid = [], []

def charge(payload):
    def steps():
        charged.append(payload)
        yield
        paid.append(payload)
    for _ in steps():
        sorted([2, 1],
            key=lambda number: -number)

@pytest.mark.qbridge(crash_points=["lines"], handler=charge)
def test_it(qbridge):
    charged.clear()
    qbridge.manager(charge, "jobs", "jobs.dead")
    qbridge.client.send("jobs", 1)
    qbridge.run()
    assert charged == [1]
"""
    output = run(tmp_path, test, "-v", status=1)
    for line in ("charge-line-11", "steps-line-8", "steps-line-9", "<lambda>-line-12"):
        assert f"FAILED test_it.py::test_it[{line}]" in output
    assert "test_it[steps-line-7] PASSED" in output
    assert "crashed before line 9 of charge.<locals>.steps: paid.append(payload)" in output


def test_the_marker_works_where_the_fixture_is_overridden(tmp_path: Path) -> None:
    """As a project does that opens its app in each test; a method that cannot be parametrized fails and says why."""
    test = """
import unittest

import shop

@pytest.fixture
def qbridge(qbridge):
    qbridge.open(shop.app)
    return qbridge

@pytest.mark.qbridge(crash_points=["done"], handler=shop.send_mail)
def test_it(qbridge):
    shop.send_mail.send("ann@x")
    assert qbridge.run().succeeded == 1

class TestCase(unittest.TestCase):
    @pytest.fixture(autouse=True)
    def kit(self, qbridge):
        self.qbridge = qbridge

    @pytest.mark.qbridge(crash_points=["done"], handler=shop.send_mail)
    def test_method(self):
        self.qbridge.run()
"""
    output = run(tmp_path, test, "-v", status=1)
    assert "test_it[done] PASSED" in output
    assert "pytest does not parametrize the methods of a unittest.TestCase" in output
    assert "2 passed, 1 error" in output


def test_a_fault_that_never_happens_fails_the_test(tmp_path: Path) -> None:
    """It proves nothing; of the marker's points some are never reached, and those are skipped."""
    test = """
@pytest.mark.qbridge(crash_points=["publish"], handler=print)
def test_death(qbridge):
    qbridge.manager(print, "jobs", "jobs.dead")
    qbridge.crash(after="done", of="job")
    qbridge.client.send("jobs", 1)
    qbridge.run()

def test_repeat(qbridge):
    qbridge.deliver_twice()
"""
    output = run(tmp_path, test, status=1)
    assert "3 failed" in output
    assert "no worker of 'job' died when the handler had ended, and nothing was settled, as the test has" in output
    assert "no acknowledgement was lost, as the test has asked for" in output


def test_a_wrong_marker_is_told_when_tests_are_collected(tmp_path: Path) -> None:
    """With what is right."""
    wrong = {
        "@pytest.mark.qbridge(crash_points='all')\ndef test_it(qbridge): pass": (
            "name the handler, as in @pytest.mark.qbridge"
        ),
        "@pytest.mark.qbridge(crash_points=['ack'])\ndef test_it(qbridge): pass": (
            "there is no crash point 'ack'; there are 'received', 'start'"
        ),
        "@pytest.mark.qbridge(crash_points='done')\ndef test_it(qbridge): pass": (
            "crash_points must be \"all\" or a list of 'received', 'start'"
        ),
        "@pytest.mark.qbridge(crash_point='all')\ndef test_it(qbridge): pass": (
            "the marker qbridge takes crash_points=… and handler=…"
        ),
        "@pytest.mark.qbridge(crash_points=['done'])\ndef test_it(): pass": (
            "is for tests that use the fixture qbridge"
        ),
    }
    for number, test in enumerate(wrong):
        (tmp_path / f"test_{number}.py").write_text(f"import pytest\n{test}\n")
    output = run(tmp_path, "", status=2)
    assert [why for why in wrong.values() if why not in output] == []
