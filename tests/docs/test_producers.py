"""The producers of docs/production.md, and one that lives in Django, each served by a real server."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from qbridge_core import connect
from support.brokers import Broker, free_port
from support.pages import DOCS
from support.wait import wait_for

PAGE = (DOCS / "production.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^```python\n(?=# ([\w.]+\.py)\n)(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
DJANGO = """
import os

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.urls import path

settings.configure(
    ROOT_URLCONF=__name__,
    ALLOWED_HOSTS=["*"],
    INSTALLED_APPS=["qbridge_core.contrib.django"],
    QBRIDGE_URL=os.environ["QBRIDGE_URL"],
    TASKS={"default": {"BACKEND": "qbridge_core.contrib.django.QBridgeBackend", "QUEUES": ["emails"]}},
)
application = get_wsgi_application()

from views import send_mail

urlpatterns = [path("mails", send_mail)]
"""
VIEWS = """
import json

import django
from django.http import JsonResponse

from qbridge_core import TransientError

if django.VERSION >= (6, 0):
    from django.tasks import task
else:
    from django_tasks import task


@task(queue_name="emails")
def mail(to):
    pass


def send_mail(request):
    if request.method != "POST":  # somebody asks whether the server answers
        return JsonResponse({}, status=405)
    try:
        result = mail.enqueue(**json.loads(request.body))
    except TransientError as error:
        return JsonResponse({"error": str(error)}, status=503)
    return JsonResponse({"task": result.id}, status=202)
"""
EARLY = "from broker import broker\n\nbroker()  # before the server forks\n"
SERVERS = {
    "fastapi": ["uvicorn", "fastapi_app:app", "--workers", "2", "--host", "127.0.0.1", "--port"],
    "flask": ["gunicorn", "flask_app:app", "--bind"],
    "django": ["gunicorn", "project:application", "--bind"],
}


@pytest.fixture
def url(redis_url: str, unique_name: str) -> str:
    """A broker with nothing in it."""
    return f"{redis_url}?prefix={unique_name}:&publish_timeout=1&connect_timeout=1"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The files of the page, and a Django project with a task and a view."""
    for name, code in {**FILES, "project.py": DJANGO, "views.py": VIEWS}.items():
        (tmp_path / name).write_text(code, encoding="utf-8")
    return tmp_path


@contextmanager
def served(folder: Path, server: Sequence[str], url: str) -> Iterator[str]:
    """Run a server in the folder; the address of its page."""
    pytest.importorskip(server[0])
    port = free_port()
    address = str(port) if server[-1] == "--port" else f"127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *server, address],
            cwd=folder, env={**os.environ, "QBRIDGE_URL": url, "HOME": str(folder)}, stdout=log, stderr=log,
        )  # fmt: skip
    page = f"http://127.0.0.1:{port}/mails"
    try:
        wait_for(lambda: process.poll() is not None or answers(page), 60, "the server answers")
        assert process.poll() is None, (folder / "log").read_text()
        yield page
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        process.kill()
        process.wait()


def answers(page: str) -> bool:
    """Whether the server is there; it may refuse to be asked in this way."""
    try:
        urllib.request.urlopen(page, timeout=5).close()
    except urllib.error.HTTPError as refusal:
        refusal.close()
    except OSError:
        return False
    return True


def post(page: str, mail: dict[str, str]) -> tuple[int, dict[str, str]]:
    """Send a mail; the status and what the page says."""
    request = urllib.request.Request(page, json.dumps(mail).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.parametrize("server", SERVERS.values(), ids=SERVERS)
def test_what_is_posted_is_in_the_queue(folder: Path, server: list[str], url: str) -> None:
    """With two processes that are forked from, or started by, one; the answer is the id of the task."""
    with connect(url) as client:
        client.declare("emails", "emails.dead")
        with served(folder, server, url) as page:
            answered = [post(page, {"to": f"{number}@example.org"}) for number in range(8)]
        assert [status for status, _ in answered] == [202] * 8
        sent = {json.loads(delivery.body)["task_id"] for delivery in client.receive("emails", 8, 10.0)}
        assert sent == {answer["task"] for _, answer in answered}


def test_a_client_that_was_connected_before_the_fork_is_left_to_its_process(folder: Path, url: str) -> None:
    """With `preload_app`, and an application that has sent something while it was imported."""
    (folder / "flask_app.py").write_text(EARLY + (folder / "flask_app.py").read_text(encoding="utf-8"))
    with connect(url) as client:
        client.declare("emails", "emails.dead")
        with served(folder, SERVERS["flask"], url) as page:
            assert [post(page, {"to": "ann@example.org"})[0] for _ in range(8)] == [202] * 8
        assert client.stats("emails").ready == 8


@pytest.mark.parametrize("server", [SERVERS["flask"], SERVERS["django"]], ids=["flask", "django"])
def test_a_broker_that_is_away_is_a_503(folder: Path, server: list[str]) -> None:
    """Of a page that goes on answering, and says why."""
    with served(folder, server, f"redis://127.0.0.1:{free_port()}/0?connect_timeout=1") as page:
        status, answer = post(page, {"to": "ann@example.org"})
    assert status == 503
    assert "127.0.0.1" in answer["error"]


@pytest.mark.parametrize("kind", ["private_redis", "private_rabbitmq"])
def test_fastapi_answers_503_when_the_broker_goes_away(folder: Path, kind: str, request: pytest.FixtureRequest) -> None:
    """Its client was connected when the server started."""
    broker: Broker = request.getfixturevalue(kind)
    server = [word if word != "2" else "1" for word in SERVERS["fastapi"]]
    with connect(broker.url) as client:
        client.declare("emails", "emails.dead")
    with served(folder, server, f"{broker.url}?publish_timeout=5&connect_timeout=5") as page:
        assert post(page, {"to": "ann@example.org"})[0] == 202
        broker.stop()
        assert post(page, {"to": "ann@example.org"})[0] == 503
