"""The shop with Celery and with Dramatiq: what it is compared with works, and takes more lines."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import redis

from qbridge_core import connect
from support.brokers import Broker
from support.customers import Customer, MailServer
from support.wait import wait_for

SHOP = Path(__file__).parents[2] / "examples" / "shop"
SEND = """
import importlib, sys
from pathlib import Path
from shop.business import OrderMail
twin = importlib.import_module(sys.argv[1])
mail = OrderMail(to="ann@example.org", order=7, total="9.90", paid_at="2026-01-02T00:00:00Z")
twin.paid(mail, [Path(sys.argv[2])], sys.argv[3:])
"""


def lines(name: str) -> int:
    """The lines of a module that are neither empty, comments nor docstrings."""
    text = (SHOP / name).read_text(encoding="utf-8")
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    left_out = {
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, documented) and ast.get_docstring(node) is not None
        for number in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)
    }
    numbered = enumerate(map(str.strip, text.splitlines()), 1)
    return sum(1 for number, line in numbered if line and not line.startswith("#") and number not in left_out)


def send(twin: str, picture: Path, *hooks: str, **variables: str) -> None:
    """As a program of its own, since each of the libraries has an app or a broker for the whole process."""
    environment = os.environ | {"PYTHONPATH": str(SHOP.parent)} | variables
    subprocess.run([sys.executable, "-c", SEND, twin, str(picture), *hooks], env=environment, check=True, timeout=60)


def wait_until_done(mail_server: MailServer, picture: Path, good: Customer, gone: Customer) -> None:
    """A mail, a thumbnail, and a webhook each of one who was busy once and one who wants no more."""
    wait_for(lambda: [each["Subject"] for each in mail_server.mails] == ["Order 7"], 60.0)
    wait_for(picture.with_suffix(".small.ppm").exists, 30.0)
    wait_for(lambda: [key for key, _ in good.told] == ["hook-7-0", "hook-7-0"], 30.0)
    assert gone.told == [("hook-7-1", {"kind": "paid", "order": 7})]


def test_the_shop_takes_fewer_lines_than_its_twins() -> None:
    """The tasks, and what sends them, in one module each; the documentation has the numbers."""
    own, celery, dramatiq = lines("tasks.py"), lines("celery_twin.py"), lines("dramatiq_twin.py")
    assert own < min(celery, dramatiq)
    page = (SHOP.parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert f"| lines of code | {own} | {celery} | {dramatiq} |" in page


def test_the_shop_works_with_celery(
    private_database: Callable[[int], str],
    program: Callable[..., None],
    mail_server: MailServer,
    customer: Callable[..., Customer],
    picture: Path,
) -> None:
    """What has failed for good is in a queue of its own, with the reason."""
    url = private_database(14)
    good, gone = customer(503, 200), customer(410)
    send("shop.celery_twin", picture, good.url, gone.url, CELERY_BROKER_URL=url)
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    queues = ["-Q", "emails,thumbnails,webhooks", "-P", "threads", "-c", "4"]
    program("-m", "celery", "-A", "shop.celery_twin", "worker", *queues, *quiet, CELERY_BROKER_URL=url)
    with redis.Redis.from_url(url) as server:
        kept = wait_for(lambda: server.lrange("webhooks.dead", 0, -1), 60.0)
    assert "wants to hear no more" in json.loads(kept[0])["headers"]["reason"]
    wait_until_done(mail_server, picture, good, gone)


def test_the_shop_works_with_dramatiq(
    private_rabbitmq: Broker,
    program: Callable[..., None],
    mail_server: MailServer,
    customer: Callable[..., Customer],
    picture: Path,
) -> None:
    """What has failed for good is in the dead-letter queue that the library has."""
    url = private_rabbitmq.url
    good, gone = customer(503, 200), customer(410)
    send("shop.dramatiq_twin", picture, good.url, gone.url, DRAMATIQ_BROKER_URL=url)
    program("-m", "dramatiq", "shop.dramatiq_twin", "-p", "1", "-t", "4", DRAMATIQ_BROKER_URL=url)
    with connect(url) as client:
        wait_for(lambda: client.count("webhooks.XQ").ready == 1, 60.0)
    wait_until_done(mail_server, picture, good, gone)
